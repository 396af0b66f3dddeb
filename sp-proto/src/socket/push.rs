//! The push socket.

use crate::engine::{Attempt, Owner, Place, Sends, State};
use crate::pattern;
use crate::{Message, SendError};
use std::sync::Arc;

/// Deals messages out to its peers, round-robin over those that can take one; with more than 31 peers a flood
/// goes out in short runs, each peer's as long as the others'. A cloneable handle; the socket closes when the
/// last one is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Pull, Push};
/// let (push, pull) = (Push::new(), Pull::new());
/// push.listen("inproc://push-example").await?;
/// pull.dial("inproc://push-example").await?;
/// push.send("work").await?;
/// assert_eq!(pull.recv().await?.as_bytes(), b"work");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Push {
    owner: Arc<Owner<pattern::Push>>,
}

super::socket!(Push, |_: &crate::SocketOptions| pattern::Push::default());

struct Turn;

impl Sends<pattern::Push> for Turn {
    fn attempt(&mut self, state: &mut State<pattern::Push>, message: Message) -> Attempt {
        state.pattern.send(&mut state.pipes, message).into()
    }
}

impl Push {
    /// Queues the message on a pipe, waiting until one has room. What is queued on a pipe that then breaks is
    /// lost: nothing on the wire acknowledges delivery.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message was not sent.
    pub fn send<M: Into<Message>>(
        &self,
        message: M,
    ) -> impl Future<Output = Result<(), SendError>> + Send + use<'_, M> {
        self.send_at(Place::Kept, message.into())
    }

    /// The same, waiting so.
    pub(super) fn send_at(
        &self,
        place: Place,
        message: Message,
    ) -> impl Future<Output = Result<(), SendError>> + Send + use<'_> {
        self.owner.core.send(Turn, message).with(place)
    }

    /// Queues the message on a pipe if one has room now.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::SendErrorKind::WouldBlock) or closed; the message comes back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.owner.core.try_send(Turn, message.into())
    }
}
