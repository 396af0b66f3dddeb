//! Owns the processes of one plugin and whose control connection is whose. It starts and signals what it is told
//! to; what that means is decided elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use sp_proto::{PipeId, PipeInfo};

use crate::plugin::guard;
use crate::plugin::lifecycle::Generation;
use crate::plugin::native::session::{Order, Session};
use crate::plugin::process::Process;

/// A process that somebody else has started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    pid: Option<u32>,
    since: SystemTime,
}

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Known(Generation),
    /// None that the host has started for this plugin.
    Stranger,
}

#[derive(Debug, Default)]
pub(super) struct Processes {
    running: BTreeMap<Generation, Process>,
    halted: BTreeMap<Generation, bool>,
    attached: Option<Attached>,
    /// The control channels of our own contract: of processes that may yet turn out to speak it, and of those that
    /// do.
    sessions: BTreeMap<Generation, Session>,
    /// When those that were asked to end get the signal that says the same.
    escalations: BTreeMap<Generation, Instant>,
    /// The newest control message of each connection, which the next command replies to.
    held: HashMap<PipeId, sp_proto::Request>,
    owners: HashMap<PipeId, Generation>,
}

impl Processes {
    pub(super) fn insert(&mut self, generation: Generation, process: Process) {
        self.running.insert(generation, process);
    }

    /// Takes out a process that has ended, with its connections.
    pub(super) fn remove(&mut self, generation: Generation) -> Option<Process> {
        self.halted.remove(&generation);
        self.sessions.remove(&generation);
        self.escalations.remove(&generation);
        self.disown(generation);
        self.running.remove(&generation)
    }

    /// Forgets the connections of a process, and returns them.
    pub(super) fn disown(&mut self, generation: Generation) -> Vec<PipeId> {
        let pipes = self.owners.extract_if(|_, owner| *owner == generation);
        let pipes: Vec<PipeId> = pipes.map(|(pipe, _)| pipe).collect();
        self.held.retain(|pipe, _| !pipes.contains(pipe));
        pipes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn pid(&self, generation: Generation) -> Option<u32> {
        let running = self.running.get(&generation).map(Process::id);
        running.or_else(|| self.attached?.pid)
    }

    pub(super) fn started(&self, generation: Generation) -> Option<SystemTime> {
        let running = self.running.get(&generation).map(Process::started);
        running.or_else(|| Some(self.attached?.since))
    }

    /// What everything descends from that belongs to the generation.
    pub(super) fn root(&self, generation: Generation) -> Option<u32> {
        let running = self.running.get(&generation).map(Process::root);
        running.or_else(|| self.attached?.pid)
    }

    /// The process that somebody else has started.
    pub(super) fn attached(&self) -> Option<u32> {
        self.attached?.pid
    }

    pub(super) fn insert_session(&mut self, generation: Generation, session: Session) {
        self.sessions.insert(generation, session);
    }

    /// The session of a process that speaks our own contract.
    pub(super) fn session(&self, generation: Generation) -> Option<&Session> {
        self.sessions.get(&generation).filter(|session| session.open)
    }

    pub(super) fn session_mut(&mut self, generation: Generation) -> Option<&mut Session> {
        self.sessions.get_mut(&generation)
    }

    pub(super) fn has_session(&self, generation: Generation) -> bool {
        self.sessions.contains_key(&generation)
    }

    /// The process has said hello. True when it did so for the first time.
    pub(super) fn note_hello(&mut self, generation: Generation) -> bool {
        let session = self.sessions.get_mut(&generation);
        session.is_some_and(|session| !std::mem::replace(&mut session.open, true))
    }

    /// The process speaks the other contract; false when it has said before that it speaks our own.
    pub(super) fn take_foreign(&mut self, generation: Generation) -> bool {
        if self.session(generation).is_some() {
            return false;
        }
        self.sessions.remove(&generation);
        true
    }

    /// Whether every process speaks our own contract.
    pub(super) fn are_native(&self) -> bool {
        let mut running = self.running.keys();
        running.all(|generation| self.session(*generation).is_some())
    }

    pub(super) fn close_session(&mut self, generation: Generation) {
        self.sessions.remove(&generation);
    }

    pub(super) fn close_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Asks a process of our own contract to end, and gives it the signal if it has not after half of its time.
    /// False when it speaks the other one.
    pub(super) fn shut_down(&mut self, generation: Generation, limit: Duration) -> bool {
        let Some(session) = self.session(generation) else {
            return false;
        };
        session.order(Order::Shutdown(limit));
        self.escalations.insert(generation, Instant::now() + limit / 2);
        true
    }

    /// When [`Processes::escalate`] has something to do.
    pub(super) fn escalation(&self) -> Option<Instant> {
        self.escalations.values().min().copied()
    }

    /// Gives the signal to those that were asked in vain.
    pub(super) fn escalate(&mut self, now: Instant) {
        let due = self.escalations.extract_if(.., |_, at| now >= *at);
        for generation in due.map(|(generation, _)| generation).collect::<Vec<_>>() {
            self.terminate(generation);
        }
    }

    pub(super) fn terminate(&self, generation: Generation) {
        if let Some(process) = self.running.get(&generation) {
            process.terminate();
        }
    }

    pub(super) fn kill(&mut self, generation: Generation) {
        if let Some(process) = self.running.get_mut(&generation) {
            process.kill();
        }
    }

    /// Whose this process is.
    pub(super) fn generation_of(&self, pid: u32) -> Option<Generation> {
        let mut running = self.running.iter();
        running
            .find(|(_, process)| process.owns(pid))
            .map(|(generation, _)| *generation)
    }

    /// The generation of a connection that was let in.
    pub(super) fn owner(&self, pipe: PipeId) -> Option<Generation> {
        self.owners.get(&pipe).copied()
    }

    /// The connections of processes that speak the other contract.
    pub(super) fn foreign_pipes(&self) -> Vec<PipeId> {
        let owners = self.owners.iter();
        owners
            .filter(|(_, generation)| self.session(**generation).is_none())
            .map(|(pipe, _)| *pipe)
            .collect()
    }

    /// Whose this new connection is, which the socket has admitted.
    pub(super) fn identify(&self, info: &PipeInfo) -> Owner {
        let pid = info.credentials.and_then(|peer| peer.pid);
        let known = pid.and_then(|pid| self.generation_of(pid));
        known.map_or(Owner::Stranger, Owner::Known)
    }

    /// Lets a connection in.
    pub(super) fn admit(&mut self, pipe: PipeId, owner: Generation) {
        self.owners.insert(pipe, owner);
    }

    /// Whether a process that somebody else has started may be this connection's: there is none yet, or it is
    /// the same.
    pub(super) fn attach(&mut self, pid: Option<u32>) -> bool {
        match self.attached {
            Some(attached) => match (attached.pid, pid) {
                (Some(attached), Some(pid)) => guard::descends(pid, attached),
                _ => attached.pid == pid,
            },
            None => {
                self.attached = Some(Attached {
                    pid,
                    since: SystemTime::now(),
                });
                true
            }
        }
    }

    /// The process that somebody else had started is no longer there.
    pub(super) fn detach(&mut self) {
        self.attached = None;
    }

    /// A connection is gone. Returns whose it was.
    pub(super) fn forget(&mut self, pipe: PipeId) -> Option<Generation> {
        self.held.remove(&pipe);
        self.owners.remove(&pipe)
    }

    pub(super) fn hold(&mut self, message: sp_proto::Request) {
        self.held.insert(message.pipe(), message);
    }

    /// The message that a command on this connection replies to.
    pub(super) fn take_held(&mut self, pipe: PipeId) -> Option<sp_proto::Request> {
        self.held.remove(&pipe)
    }

    /// The processes that were stopped or went on since the last look.
    pub(super) fn look(&mut self) -> Vec<(Generation, bool)> {
        let mut changes = Vec::new();
        for (generation, process) in &self.running {
            let halted = process.is_halted();
            if self.halted.insert(*generation, halted).unwrap_or(false) != halted {
                changes.push((*generation, halted));
            }
        }
        changes
    }

    /// Waits until one of the processes has ended. A pidfd that cannot be watched counts as an end: the process
    /// is killed and reaped then.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn ended(&self) -> Generation {
        let mut ends: Vec<_> = self
            .running
            .iter()
            .map(|(generation, process)| {
                Box::pin(async move {
                    if let Err(error) = process.ended().await {
                        tracing::error!(pid = process.id(), "a process cannot be watched: {error}");
                    }
                    *generation
                })
            })
            .collect();
        poll_fn(|context| {
            let ready = ends.iter_mut().find_map(|end| match end.as_mut().poll(context) {
                Poll::Ready(generation) => Some(generation),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
