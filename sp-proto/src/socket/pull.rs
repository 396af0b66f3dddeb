//! The pull socket.

use crate::engine::{Owner, Place};
use crate::pattern;
use crate::{Message, RecvError};
use std::sync::Arc;

/// Collects messages from its peers, fair over them. A cloneable handle; the socket closes when the last one
/// is dropped.
///
/// A peer that sends faster than `recv` is called is held back. [`Push`](crate::Push) has an example.
#[derive(Clone)]
pub struct Pull {
    owner: Arc<Owner<pattern::Pull>>,
}

super::socket!(Pull, |options| pattern::Pull::new(super::recv_limits(options)));

impl Pull {
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
