//! The tasks and the shared state around the patterns: one connection, dialer, listener, the owner of a
//! socket.
//!
//! Every task has an owner that joins it: the socket owns its listeners, dialers and attached pipes; a
//! listener owns the pipes it accepted; a dialer *is* the pipe that it made. Whatever is dropped takes its
//! tasks along.

mod acceptor;
mod admission;
mod backoff;
mod core;
mod dialer;
mod events;
mod greeting;
mod intake;
#[cfg(all(test, sp_loom))]
mod model;
mod owner;
mod pipe;
mod reading;
mod send;
mod timer;
mod vigil;
mod waiters;

#[cfg(all(test, sp_loom))]
use self::core::Unattached;
pub(crate) use self::core::{Core, State};
pub(crate) use acceptor::Acceptor;
pub use acceptor::ListenerOptions;
pub use admission::Admission;
pub(crate) use events::Publisher;
pub use events::{Event, Events, PipeInfo};
pub(crate) use greeting::Greeted;
pub(crate) use greeting::Manners;
pub use owner::Endpoint;
pub(crate) use owner::{Owner, bind};
pub(crate) use send::{Attempt, Sends};
pub(crate) use waiters::{Place, Waiters};

use std::time::Instant;

/// The one clock: tokio's, so that a test can stop it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
