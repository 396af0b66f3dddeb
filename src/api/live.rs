//! Owns answers without an end: server-sent events of what happens from now on. It bounds how many there are,
//! says something when nothing happens, and ends them when REST does. What is followed is up to the routes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;

/// The most followers at a time; they are connections, of which there is only a limited number.
const MAX_FOLLOWERS: usize = 64;

/// After this long without an event a comment is sent: so both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What every answer of this kind needs.
#[derive(Clone)]
pub(super) struct Live {
    free: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// One follower.
struct Follower<T, F> {
    first: VecDeque<T>,
    rest: broadcast::Receiver<T>,
    show: F,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Live {
    /// All followers end when `shutdown` is cancelled.
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            shutdown,
        }
    }

    /// Answers with `first`, and then with what comes, until the sender has gone; `show` may leave some out. A
    /// client that reads too slowly misses the oldest and gets an event `lost` with their number.
    pub(super) fn follow<T, S>(
        &self,
        first: Vec<T>,
        rest: broadcast::Receiver<T>,
        show: impl FnMut(T) -> Option<S> + Send + 'static,
    ) -> Result<Response, ApiError>
    where
        T: Clone + Send + 'static,
        S: Serialize + 'static,
    {
        let place = Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("there are {MAX_FOLLOWERS} followers already, the most at a time"),
            )
        })?;
        let follower = Follower {
            first: first.into(),
            rest,
            show,
            shutdown: self.shutdown.clone(),
            _place: place,
        };
        let events = stream::unfold(follower, async |mut follower| {
            let event = follower.next().await?;
            Some((Ok::<_, Infallible>(event), follower))
        });
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Ok(Sse::new(events).keep_alive(keep_alive).into_response())
    }
}

impl<T: Clone, S: Serialize, F: FnMut(T) -> Option<S>> Follower<T, F> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let value = match self.first.pop_front() {
                Some(value) => value,
                None => tokio::select! {
                    biased;
                    () = self.shutdown.cancelled() => return None,
                    received = self.rest.recv() => match received {
                        Ok(value) => value,
                        Err(RecvError::Lagged(lost)) => {
                            return Some(Event::default().event("lost").data(lost.to_string()));
                        }
                        Err(RecvError::Closed) => return None,
                    },
                },
            };
            match (self.show)(value).map(|shown| Event::default().json_data(shown)) {
                Some(Ok(event)) => return Some(event),
                Some(Err(error)) => tracing::error!("an event cannot be written: {error}"),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn frame(response: &mut Response) -> Option<String> {
        let frame = response.body_mut().frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().into()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn events_come_in_order_with_comments_in_silence_and_an_end_at_shutdown() {
        let shutdown = CancellationToken::new();
        let live = Live::new(shutdown.clone());
        let sender = broadcast::Sender::new(2);
        let odd = |n: u32| (n % 2 == 1).then_some(n);
        let mut response = live.follow(vec![1, 2], sender.subscribe(), odd).unwrap();
        assert_eq!(frame(&mut response).await.unwrap(), "data: 1\n\n");
        for n in 3..=7 {
            sender.send(n).unwrap();
        }
        assert_eq!(frame(&mut response).await.unwrap(), "event: lost\ndata: 3\n\n");
        assert_eq!(frame(&mut response).await.unwrap(), "data: 7\n\n");
        assert!(frame(&mut response).await.unwrap().starts_with(':'));
        shutdown.cancel();
        assert_eq!(frame(&mut response).await, None);
    }

    #[tokio::test]
    async fn what_is_followed_may_end() {
        let live = Live::new(CancellationToken::new());
        let sender = broadcast::Sender::new(2);
        let mut response = live.follow(vec![7], sender.subscribe(), Some).unwrap();
        drop(sender);
        assert_eq!(frame(&mut response).await.unwrap(), "data: 7\n\n");
        assert_eq!(frame(&mut response).await, None);
    }

    #[tokio::test]
    async fn one_follower_too_many_is_refused_until_another_leaves() {
        let live = Live::new(CancellationToken::new());
        let sender = broadcast::Sender::<u32>::new(2);
        let follow = || live.follow(Vec::new(), sender.subscribe(), Some);
        let mut followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| follow().unwrap()).collect();
        let refused = follow().unwrap_err();
        assert_eq!(refused.status(), 429);
        followers.pop();
        follow().unwrap();
    }
}
