//! What the life of a plugin is told, and what it asks for in return.

use std::sync::Arc;

use mangrove_protocol::control::{Command, Symbol};
use mangrove_protocol::manifest::Manifest;

use super::super::uses::UseId;
use super::super::{Event, Limits, Refusal, State};

/// One line of processes; a later one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::plugin) struct Generation(pub(in crate::plugin) u64);

/// One wish to start; chosen by who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::plugin) struct Ticket(pub(in crate::plugin) u64);

/// Something happened, or is wanted.
#[derive(Clone, Debug)]
pub(in crate::plugin) enum Happening<P> {
    /// Run this from now on; beside what runs, until it has taken over.
    Start(Ticket, Arc<Manifest>, Limits),
    /// Stop, then wait for a process that somebody else starts.
    Attach,
    /// Run nothing, for this reason.
    Stop(String),
    /// Somebody wants a symbol to run.
    Open(UseId, Symbol),
    /// Nobody wants it any more.
    Close(UseId),
    /// A function that should be running has no connection.
    Silent(UseId),
    /// A call of this function was given up; or, when there is none, what was late has been answered.
    Late(Option<String>),
    /// Something that concerns one line of processes.
    Of(Generation, Event<P>),
    /// The sink's sender is held.
    Held(UseId),
    /// The sink's sender was connected, or not.
    Dialed(UseId, Result<(), String>),
    /// This process has taken over the calls of the function.
    Turned(UseId, Generation),
    /// The time that [`deadline`](super::Generations::deadline) named has come.
    Tick,
}

/// What has to be done. In the given order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plugin) enum Deed<P> {
    /// Start the process that the ticket stands for. A failure is reported by [`Event::SpawnFailed`].
    Spawn(Generation, Ticket),
    /// Ask the process group to end.
    Terminate(Generation),
    /// End the process group.
    Kill(Generation),
    /// Disconnect the process that somebody else has started.
    Detach(Generation),
    /// Reply to the newest control message of this pipe with this.
    Send(Generation, P, Command),
    /// The use runs in this process. For a sink that ran before: connect its sender and let it go on.
    Started(UseId, Generation),
    /// The use did not come to run, and is forgotten.
    Refused(UseId, Refusal),
    /// The use ran and cannot go on. It is forgotten.
    Ended(UseId, Refusal),
    /// The use that was closed no longer runs.
    Closed(UseId),
    /// Keep the sink's sender from sending: [`Happening::Held`], within the command limit.
    Hold(UseId),
    /// Connect the sink's sender with this process: [`Happening::Dialed`].
    Dial(UseId, Generation),
    /// Let the sink's sender go on.
    Release(UseId),
    /// Let this process take over the calls of the function: [`Happening::Turned`].
    Turn(UseId, Generation),
    /// What became of a wish to start.
    Settled(Ticket, Result<(), String>),
    /// Nothing is left of this line of processes.
    Over(Generation),
}

/// How a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct Standing {
    pub(in crate::plugin) state: State,
    pub(in crate::plugin) reason: String,
    pub(in crate::plugin) version: Option<String>,
    pub(in crate::plugin) restarts: u32,
    pub(in crate::plugin) note: String,
    pub(in crate::plugin) attached: bool,
}
