//! Owns the life of one plugin: when its processes are started and stopped, which symbols have to run in which
//! of them, which command is sent next. Pure: it knows no process, no socket and no clock. The worker turns
//! everything that happens into a [`Happening`] and carries out the returned [`Deed`]s.
//!
//! | module | what it decides |
//! |---|---|
//! | `life` | one line of processes, each of which replaces the one that failed before |
//! | `uses` | which symbols are wanted in it, and what the next command is |
//! | `health` | whether the process that runs is well |
//! | `generations` | two lines beside each other, while a new version takes over |
//! | `swap` | how one symbol after the other gets from here to there, or back |
//!
//! One line of processes:
//!
//! ```text
//! before     what happens                             after
//! ─────────  ───────────────────────────────────────  ──────────────────────────────────────────────
//! Stopped    Start                                    Starting: spawn
//! Starting   first message                            Running
//!            the process ends or cannot be spawned    Waiting; Failed when it was one failure too many
//!            no message within the start limit        Stopping, then Waiting or Failed
//! Running    the process ends                         Waiting or Failed
//!            no control connection for as long        Stopping, then Waiting or Failed
//!            a command unanswered for as long         Stopping, then Waiting or Failed
//! Waiting    its time has come                        Starting: spawn
//! Stopping   the grace is over                        Stopping: kill
//!            the process ends                         what was to follow
//! Failed     Start                                    Starting: spawn
//! Awaiting   first message                            Running, attached
//! attached   no control connection                    Awaiting
//! any        Stop                                     Stopping: terminate; without a process Stopped
//! any        Attach                                   Stopping: terminate; without a process Awaiting
//! ```
//!
//! Symbols are level-triggered: a use says what is wanted, and whenever the plugin's turn allows a command
//! the next difference between wanted and running is sent. So a new process gets everything again without a
//! list of commands.

mod generations;
mod health;
mod life;
mod swap;
mod uses;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::control::{Command, Request, Symbol};
use mangrove_protocol::manifest::Manifest;

use super::backoff::Backoff;
use super::status::State;
pub(super) use generations::{Deed, Generation, Generations, Happening, Ticket};
use life::Lifecycle;
pub(super) use uses::{UseId, kind};

/// The time limits of one plugin.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// From the start of the process to its first message.
    pub(super) start: Duration,
    /// From a command to its answer.
    pub(super) command: Duration,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
}

/// Something happened to one line of processes, or is wanted of it.
#[derive(Clone, Debug)]
pub(super) enum Event<P> {
    /// It shall run, as this manifest says. What runs is stopped before.
    Start(Arc<Manifest>, Limits),
    /// It shall not run, for this reason.
    Stop(String),
    /// Somebody else starts the process. What runs is stopped before.
    Attach,
    /// The process could not be started.
    SpawnFailed(String),
    /// The process has ended, in this way.
    Exited(String),
    /// The plugin sent something on its control channel: the pipe, the id of the request, what it says.
    Message(P, u32, Request),
    /// A control connection is gone.
    Gone(P),
    /// The plugin is alive, as something on this pipe says, which nothing was waiting for. With the id of a request
    /// as [`Event::Message`] has.
    Heard(P, u32),
    /// It has not said that it is alive for so long, though it was asked to.
    Deaf(Duration),
    /// The process that runs has begun anew: it runs no symbol any more.
    Reset,
    /// Somebody wants a symbol to run.
    Open(UseId, Symbol),
    /// Nobody wants it any more.
    Close(UseId),
    /// A function that should be running has no connection.
    Silent(UseId),
    /// The process runs this function, whose own connection is gone although it is alive. False: it has never had
    /// one, though the plugin has said that the function runs.
    Lost(UseId, bool),
    /// A call of this function was given up; or, when there is none, what was late has been answered.
    Late(Option<String>),
    /// The process was found stopped (true) or running.
    Halted(bool),
    /// Whatever it may still do, it is killed, for this reason.
    Condemn(String),
    /// The time that [`Lifecycle::deadline`] named has come.
    Tick,
}

/// What has to be done for one line of processes. In the given order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action<P> {
    /// Start the process. A failure is reported at once by [`Event::SpawnFailed`].
    Spawn,
    /// Ask the process group to end.
    Terminate,
    /// End the process group.
    Kill,
    /// Disconnect the process that somebody else has started.
    Detach,
    /// Reply to the newest control message of this pipe with this.
    Send(P, Command),
    /// The use runs in this process.
    Started(UseId),
    /// The use did not come to run, and is forgotten.
    Refused(UseId, Refusal),
    /// The use ran and cannot go on. It is forgotten.
    Ended(UseId, Refusal),
    /// The use that was closed no longer runs.
    Closed(UseId),
}

/// Why a symbol does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The plugin answered with this text.
    Plugin(String),
    /// The plugin did not answer in time.
    TimedOut(Duration),
    /// The plugin does not run.
    Down(State, String),
    /// The new version of the plugin no longer defines it.
    Undefined(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(text) | Self::Undefined(text) => f.write_str(text),
            Self::TimedOut(limit) => write!(f, "the plugin has not answered within {limit:?}"),
            Self::Down(state, reason) => write!(f, "the plugin is {state}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests;
