//! The pub socket.

use crate::engine::{Attempt, Owner, Place, Sends, State};
use crate::pattern;
use crate::{Message, SendError};
use std::sync::Arc;

/// Sends to every subscriber. A cloneable handle; the socket closes when the last one is dropped.
///
/// It never waits for a subscriber: who is not connected misses the message, and so does one whose send queue
/// ([`send_queue`](crate::SocketOptions::send_queue)) is full, which is counted as
/// [`slow_peer`](crate::Drops::slow_peer). What such a subscriber misses is the new message, as in mangos;
/// nng drops the oldest one that it has queued for it.
///
/// Topics are filtered by the subscriber, so every message goes to every peer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Pub, Sub};
/// let (publisher, sub) = (Pub::new(), Sub::new());
/// sub.subscribe("weather/");
/// sub.listen("inproc://pub-example").await?;
/// publisher.dial("inproc://pub-example").await?;
/// publisher.send("sport/2:1").await?;
/// publisher.send("weather/rain").await?;
/// assert_eq!(sub.recv().await?.as_bytes(), b"weather/rain");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pub {
    owner: Arc<Owner<pattern::Pub>>,
}

super::socket!(Pub, |_: &crate::SocketOptions| pattern::Pub::default());

struct ToAll;

impl Sends<pattern::Pub> for ToAll {
    fn attempt(&mut self, state: &mut State<pattern::Pub>, message: Message) -> Attempt {
        Attempt::Sent(state.pattern.send(&mut state.pipes, message))
    }
}

impl Pub {
    /// Queues the message for every subscriber that has room. It waits for nobody, but yields now and then,
    /// so that a flood leaves the tasks that write it their time.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message was sent to nobody.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.send_at(Place::Kept, message.into()).await
    }

    /// The same, waiting so.
    pub(super) fn send_at(
        &self,
        place: Place,
        message: Message,
    ) -> impl Future<Output = Result<(), SendError>> + Send + use<'_> {
        self.owner.core.send(ToAll, message).with(place)
    }

    /// The same at once. Called over and over without an `await` in between, it lets no task write, and fills
    /// every queue.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.owner.core.try_send(ToAll, message.into())
    }
}
