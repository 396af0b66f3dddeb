//! The pair socket.

use crate::engine::{Attempt, Owner, Place, Sends, State};
use crate::pattern::{self, Version};
use crate::{Message, RecvError, SendError};
use std::sync::Arc;

/// Talks to one peer at a time, in both directions (pair version 0). A second peer is refused while the first
/// lives. [`Pair1`](crate::Pair1) is version 1; the two do not talk to each other. A cloneable handle; the
/// socket closes when the last one is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::Pair;
/// let (left, right) = (Pair::new(), Pair::new());
/// left.listen("inproc://pair-example").await?;
/// right.dial("inproc://pair-example").await?;
/// right.send("ping").await?;
/// assert_eq!(left.recv().await?.as_bytes(), b"ping");
/// left.send("pong").await?;
/// assert_eq!(right.recv().await?.as_bytes(), b"pong");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pair {
    owner: Arc<Owner<pattern::Pair>>,
}

super::socket!(Pair, |options| pattern::Pair::new(
    Version::V0,
    super::recv_limits(options)
));

pub(super) struct ToPeer;

impl Sends<pattern::Pair> for ToPeer {
    fn attempt(&mut self, state: &mut State<pattern::Pair>, message: Message) -> Attempt {
        state.pattern.send(&mut state.pipes, message).into()
    }
}

impl Pair {
    /// Queues the message for the peer, waiting until there is one and it has room. What is queued on a pipe
    /// that then breaks is lost: nothing on the wire acknowledges delivery.
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
        self.owner.core.send(ToPeer, message).with(place)
    }

    /// Queues the message for the peer if there is one that has room now.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::SendErrorKind::WouldBlock) or closed; the message comes back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.owner.core.try_send(ToPeer, message.into())
    }

    /// The next message.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no message was taken.
    pub fn recv(&self) -> impl Future<Output = Result<Message, RecvError>> + Send + '_ {
        self.recv_at(Place::Kept)
    }

    /// The next message, waiting so.
    pub(super) fn recv_at(
        &self,
        place: Place,
    ) -> impl Future<Output = Result<Message, RecvError>> + Send + '_ {
        self.owner
            .core
            .recv(|state| state.pattern.recv(&mut state.pipes))
            .with(place)
    }

    /// The next message if one is there now.
    ///
    /// # Errors
    /// The socket was closed.
    pub fn try_recv(&self) -> Result<Option<Message>, RecvError> {
        self.owner
            .core
            .try_recv(|state| state.pattern.recv(&mut state.pipes))
    }
}
