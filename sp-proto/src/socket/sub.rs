//! The sub socket and its contexts.

use crate::engine::{Owner, Place};
use crate::pattern::{self, ContextId};
use crate::{Message, RecvError};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Receives what it has subscribed to. A cloneable handle; the socket closes when the last handle and the
/// last context are dropped.
///
/// A topic is a prefix of the payload; the empty one matches everything, and without a subscription nothing
/// is received. The clones of a handle share their topics and their queue; a [`SubContext`] has its own.
///
/// Connections are always read. A queue that is full ([`recv_queue`](crate::SocketOptions::recv_queue)) drops
/// the oldest message, as nng and mangos do, or the new one
/// ([`sub_overflow`](crate::SocketOptions::sub_overflow), nng's "prefer new"); either is counted as
/// [`slow_reader`](crate::Drops::slow_reader). [`Pub`](crate::Pub) has an example.
#[derive(Clone)]
pub struct Sub {
    owner: Arc<Owner<pattern::Sub>>,
}

super::socket!(Sub, |options: &crate::SocketOptions| pattern::Sub::new(
    super::recv_limits(options),
    options.sub_overflow
));

const MAIN: ContextId = pattern::Sub::MAIN;

impl Sub {
    /// Receives from now on what begins with `topic`. Says whether the topic is new.
    pub fn subscribe(&self, topic: impl Into<Bytes>) -> bool {
        let topic = topic.into();
        self.owner.core.with(|state| state.pattern.subscribe(MAIN, topic))
    }

    /// Ends the subscription to `topic`. Says whether there was one. Messages that are queued and match no
    /// other topic are dropped and counted as [`unread`](crate::Drops::unread).
    pub fn unsubscribe(&self, topic: impl AsRef<[u8]>) -> bool {
        let topic = topic.as_ref();
        self.owner
            .core
            .with(|state| state.pattern.unsubscribe(&mut state.pipes, MAIN, topic))
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
        self.owner.core.recv(|state| state.pattern.recv(MAIN)).with(place)
    }

    /// The next message if one is there now.
    ///
    /// # Errors
    /// The socket was closed.
    pub fn try_recv(&self) -> Result<Option<Message>, RecvError> {
        self.owner.core.try_recv(|state| state.pattern.recv(MAIN))
    }

    /// A reader of its own on the same connections, without a subscription yet.
    pub fn context(&self) -> SubContext {
        let id = self.owner.core.with(|state| state.pattern.open());
        SubContext {
            owner: Arc::clone(&self.owner),
            id,
        }
    }
}

/// A reader with topics and a queue of its own: each context gets every message that it has subscribed to,
/// whatever the others take.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Pub, Sub};
/// let (publisher, sub) = (Pub::new(), Sub::new());
/// let (mut all, mut sport) = (sub.context(), sub.context());
/// all.subscribe("");
/// sport.subscribe("sport/");
/// sub.listen("inproc://sub-context-example").await?;
/// publisher.dial("inproc://sub-context-example").await?;
/// publisher.send("weather/rain").await?;
/// publisher.send("sport/2:1").await?;
/// assert_eq!(sport.recv().await?.as_bytes(), b"sport/2:1");
/// assert_eq!(all.recv().await?.as_bytes(), b"weather/rain");
/// assert_eq!(all.recv().await?.as_bytes(), b"sport/2:1");
/// # Ok(()) }
/// ```
pub struct SubContext {
    owner: Arc<Owner<pattern::Sub>>,
    id: ContextId,
}

impl SubContext {
    /// Receives from now on what begins with `topic`. Says whether the topic is new.
    pub fn subscribe(&self, topic: impl Into<Bytes>) -> bool {
        let topic = topic.into();
        self.owner
            .core
            .with(|state| state.pattern.subscribe(self.id, topic))
    }

    /// Ends the subscription to `topic`. Says whether there was one. Messages that are queued and match no
    /// other topic are dropped and counted as [`unread`](crate::Drops::unread).
    pub fn unsubscribe(&self, topic: impl AsRef<[u8]>) -> bool {
        let topic = topic.as_ref();
        self.owner
            .core
            .with(|state| state.pattern.unsubscribe(&mut state.pipes, self.id, topic))
    }

    /// The next message.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no message was taken.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        let id = self.id;
        self.owner.core.recv_in(id, |state| state.pattern.recv(id)).await
    }

    /// The next message if one is there now.
    ///
    /// # Errors
    /// The socket was closed.
    pub fn try_recv(&mut self) -> Result<Option<Message>, RecvError> {
        self.owner.core.try_recv(|state| state.pattern.recv(self.id))
    }
}

impl fmt::Debug for SubContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubContext")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for SubContext {
    fn drop(&mut self) {
        self.owner.core.with(|state| {
            state.contexts.remove(&self.id);
            state.pattern.close(&mut state.pipes, self.id);
        });
    }
}
