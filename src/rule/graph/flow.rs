//! The channels between the nodes: they carry batches and are bounded by what is in them, so that a rule's
//! `bufferLength` means the same however much comes at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The most that goes from node to node at once. A batch is what was ready, so nothing waits for one to fill up.
pub(super) const BATCH: usize = 128;

/// A channel in which about `limit` items (at least 1) may wait: one batch may go beyond it.
pub(super) fn channel<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(limit));
    // A batch that is empty takes a place, and no room.
    let (sender, receiver) = mpsc::channel(limit);
    (
        Sender {
            queue: sender,
            room: Arc::clone(&room),
            limit,
        },
        Receiver {
            queue: receiver,
            room,
            limit,
        },
    )
}

/// The end that puts in.
pub(super) struct Sender<T> {
    queue: mpsc::Sender<(T, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    limit: usize,
}

/// The end that takes out.
pub(super) struct Receiver<T> {
    queue: mpsc::Receiver<(T, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    limit: usize,
}

/// Nobody takes out any more.
#[derive(Debug)]
pub(super) struct Closed;

impl<T> Sender<T> {
    /// Waits for room and puts in a batch of `items`.
    pub(super) async fn send(&self, batch: T, items: usize) -> Result<(), Closed> {
        let permits = u32::try_from(items.min(self.limit)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Closed)?;
        self.queue.send((batch, room)).await.map_err(|_| Closed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.limit.saturating_sub(self.room.available_permits())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            room: Arc::clone(&self.room),
            limit: self.limit,
        }
    }
}

impl<T> Receiver<T> {
    /// The next batch; its items no longer count as waiting. `None`: there will be no more. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<T> {
        self.queue.recv().await.map(|(batch, _room)| batch)
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.limit.saturating_sub(self.room.available_permits())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // Whoever waits for room need not wait any longer.
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_counted_by_item() {
        let (sender, mut receiver) = channel(5);
        sender.send("abc", 3).await.unwrap();
        assert!(sender.send("def", 3).now_or_never().is_none(), "6 of 5 items");
        sender.send("de", 2).await.unwrap();
        assert_eq!((sender.waiting(), receiver.waiting()), (5, 5));
        assert_eq!(receiver.recv().await, Some("abc"));
        assert_eq!(receiver.waiting(), 2);
        drop(sender);
        assert_eq!(receiver.recv().await, Some("de"));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_batch_beyond_the_limit_goes_through_alone() {
        let (sender, mut receiver) = channel(2);
        sender.send("abcde", 5).await.unwrap();
        let mut next = Box::pin(sender.send("f", 1));
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!(receiver.recv().await, Some("abcde"));
        next.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_for_room_learns_that_nobody_takes_out() {
        let (sender, receiver) = channel(1);
        sender.send("a", 1).await.unwrap();
        let (sent, ()) = tokio::join!(sender.send("b", 1), async { drop(receiver) });
        assert!(sent.is_err());
        assert!(sender.is_closed());
    }
}
