//! The pair socket, version 1.

use crate::engine::{Owner, Place};
use crate::pattern::{self, Version};
use crate::socket::pair::ToPeer;
use crate::{Message, RecvError, SendError};
use std::sync::Arc;

/// Talks to one peer at a time, in both directions (pair version 1). It differs from [`Pair`](crate::Pair),
/// with which it does not talk, in a hop count that each message carries: one that has come through more
/// sockets than [`ttl`](crate::SocketOptions::ttl) is dropped, so devices may even be connected in a circle.
/// A cloneable handle; the socket closes when the last one is dropped.
///
/// A second peer is refused while the first lives. nng also has a mode of this protocol with several peers
/// (polyamorous, deprecated there); mangos and this crate do not. A peer whose messages have no hop count is
/// disconnected, as nng does; mangos drops them and stays.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::Pair1;
/// let (left, right) = (Pair1::new(), Pair1::new());
/// left.listen("inproc://pair1-example").await?;
/// right.dial("inproc://pair1-example").await?;
/// right.send("ping").await?;
/// assert_eq!(left.recv().await?.as_bytes(), b"ping");
/// left.send("pong").await?;
/// assert_eq!(right.recv().await?.as_bytes(), b"pong");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pair1 {
    owner: Arc<Owner<pattern::Pair>>,
}

super::socket!(Pair1, |options: &crate::SocketOptions| pattern::Pair::new(
    Version::V1 { ttl: options.ttl },
    super::recv_limits(options)
));

impl Pair1 {
    /// Queues the message for the peer, waiting until there is one and it has room. What is queued on a pipe
    /// that then breaks is lost: nothing on the wire acknowledges delivery.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message was not sent.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.send_at(Place::Kept, message.into()).await
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
    pub async fn recv(&self) -> Result<Message, RecvError> {
        self.recv_at(Place::Kept).await
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
