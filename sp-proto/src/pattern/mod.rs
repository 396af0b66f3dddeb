//! The patterns: who gets a message, what a message that came in means, when to ask again. Pure state
//! machines.
//!
//! Knows no socket, no task and no clock: time is an argument. The engine calls a [`Pattern`] under the
//! socket's lock and moves the bytes that [`Pipes`] holds; the tests below move them between two ends in
//! memory.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]

mod broadcast;
mod bus;
#[cfg(any(test, feature = "fuzz"))]
mod end;
mod fair_queue;
mod pair;
mod pipes;
mod publish;
mod pull;
mod push;
#[cfg(any(test, feature = "fuzz"))]
mod random;
mod raw;
mod rep;
mod req;
mod sub;
mod surveyor;
#[cfg(test)]
mod world;

pub(crate) use bus::Bus;
pub(crate) use fair_queue::RecvLimits;
pub(crate) use pair::{Pair, Version};
pub(crate) use pipes::{Key, Pipes, SendLimits};
pub(crate) use publish::Pub;
pub(crate) use pull::Pull;
pub(crate) use push::Push;
#[cfg(any(test, feature = "fuzz"))]
pub use random::operations;
pub(crate) use raw::{NotSent, Raw, receives, sends};
pub(crate) use rep::{Origin, Rep, Unsent};
pub(crate) use req::{Progress, Req};
pub use sub::Overflow;
pub(crate) use sub::Sub;
pub(crate) use surveyor::{Responses, Surveyor};

use crate::Protocol;
use crate::wire::BacktraceError;
use bytes::Bytes;
use std::time::Instant;

/// One conversation of a socket that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ContextId(u64);

impl ContextId {
    /// No conversation: who waits here keeps the time for the pattern, see [`Pattern::handle_timeout`].
    pub(crate) const TIMER: Self = Self(u64::MAX);
}

/// Why a pipe may not join, though it speaks the right protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the pair socket already has a peer")]
    SecondPeer,
}

/// What a peer did that ends its pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Backtrace(#[from] BacktraceError),
    #[error("malformed hop count: expected three zero bytes and the count")]
    HopCount,
}

/// What the engine asks of every pattern; sending and receiving is each pattern's own.
pub(crate) trait Pattern: Send + 'static {
    /// What the socket announces; always the same.
    fn protocol(&self) -> Protocol;

    /// A pipe has joined; [`Pipes`] already knows it.
    fn attach(&mut self, pipes: &mut Pipes, key: Key, now: Instant) -> Result<(), Refusal>;

    /// A pipe that had joined is gone; [`Pipes`] no longer knows it.
    fn detach(&mut self, pipes: &mut Pipes, key: Key, now: Instant);

    /// Messages have come in. What is left in `frames` after an error is dropped.
    fn handle_frames(
        &mut self,
        pipes: &mut Pipes,
        key: Key,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), Violation>;

    /// May more be read from this pipe now? After a no the pattern signals the pipe once it may.
    fn may_read(&mut self, key: Key) -> bool;

    /// A pipe that was full has room again.
    fn handle_room(&mut self, pipes: &mut Pipes, key: Key, now: Instant);

    /// Would the next receiver get something?
    fn can_recv(&self) -> bool;

    /// Do all receivers take from one queue? Else nobody can read a pipe for the others.
    fn has_one_queue(&self) -> bool {
        true
    }

    /// Would the next sender get rid of its message?
    fn can_send(&self) -> bool;

    /// Does it ever have something to do because time has passed?
    fn needs_timer(&self) -> bool {
        false
    }

    /// Does what is due by now, and says when to call again: at that time, and once [`ContextId::TIMER`] is
    /// ready.
    fn handle_timeout(&mut self, _pipes: &mut Pipes, _now: Instant) -> Option<Instant> {
        None
    }

    /// Is there a context whose receiver should look again?
    fn has_ready(&self) -> bool {
        true
    }

    /// The next context whose receiver should look again.
    fn pop_ready(&mut self) -> Option<ContextId> {
        None
    }
}
