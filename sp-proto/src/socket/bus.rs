//! The bus socket.

use crate::engine::{Attempt, Owner, Place, Sends, State};
use crate::pattern;
use crate::{Message, RecvError, SendError};
use std::sync::Arc;

/// Sends to every neighbour and receives from all of them. A cloneable handle; the socket closes when the
/// last one is dropped.
///
/// A message goes one hop: to those who are connected to its sender, and never back to it. For a bus of many,
/// connect each with each, or put a [`device`](fn@crate::device) with one [`Raw`](crate::Raw) socket in the
/// middle.
///
/// Sending never waits: a neighbour whose send queue is full misses the message, which is counted as
/// [`slow_peer`](crate::Drops::slow_peer). A neighbour that receives slowly is not read, as in mangos, so it
/// is its senders that drop; nng reads on and drops at the receiver.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::Bus;
/// let (left, middle, right) = (Bus::new(), Bus::new(), Bus::new());
/// left.listen("inproc://bus-left").await?;
/// right.listen("inproc://bus-right").await?;
/// middle.dial("inproc://bus-left").await?;
/// middle.dial("inproc://bus-right").await?;
/// middle.send("hello").await?;
/// assert_eq!(left.recv().await?.as_bytes(), b"hello");
/// assert_eq!(right.recv().await?.as_bytes(), b"hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Bus {
    owner: Arc<Owner<pattern::Bus>>,
}

super::socket!(Bus, |options| pattern::Bus::new(super::recv_limits(options)));

struct ToAll;

impl Sends<pattern::Bus> for ToAll {
    fn attempt(&mut self, state: &mut State<pattern::Bus>, message: Message) -> Attempt {
        Attempt::Sent(state.pattern.send(&mut state.pipes, message))
    }
}

impl Bus {
    /// Queues the message for every neighbour that has room. It waits for nobody, but yields now and then, so
    /// that a flood leaves the tasks that write it their time.
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

    /// The next message; neighbours take turns.
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
