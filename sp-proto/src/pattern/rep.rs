//! Rep and respondent: answer requests and surveys, each on the pipe that it came from.
//!
//! Requesters that give up waiting ask again, for weeks if they must, whether or not anybody receives here.
//! So pipes are always read, and of each pipe only the newest requests are kept that nobody has received yet, limited in number and bytes.

use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::wire::{Backtrace, BacktraceError};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;

/// The state of a rep or respondent socket.
#[derive(Debug)]
pub(crate) struct Rep {
    protocol: Protocol,
    ttl: u8,
    /// How much is kept per pipe of what nobody has received; the newest request whatever its length.
    backlog: RecvLimits,
    /// By pipe slot.
    lanes: Vec<Lane>,
    /// The pipes that have something pending, the next one first.
    ring: VecDeque<Key>,
}

#[derive(Debug, Default)]
struct Lane {
    requests: VecDeque<Pending>,
    /// Their bodies' length.
    bytes: usize,
}

impl Lane {
    fn pop(&mut self) -> Option<Pending> {
        let oldest = self.requests.pop_front()?;
        self.bytes -= oldest.body.len();
        Some(oldest)
    }

    /// Adds a request and says how many older ones had to make way.
    fn push(&mut self, newest: Pending, backlog: RecvLimits) -> u64 {
        self.bytes += newest.body.len();
        self.requests.push_back(newest);
        let mut superseded = 0;
        while self.requests.len() > backlog.messages || self.requests.len() > 1 && self.bytes > backlog.bytes
        {
            self.pop();
            superseded += 1;
        }
        superseded
    }
}

#[derive(Debug)]
struct Pending {
    backtrace: Backtrace,
    body: Bytes,
}

/// Where a request came from and what its reply must carry.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) key: Key,
    backtrace: Backtrace,
}

impl Origin {
    pub(crate) fn id(&self) -> u32 {
        self.backtrace.id()
    }
}

/// Why a reply was not taken. The message comes back.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The pipe has no room now.
    Full(Message),
    /// The pipe is gone.
    Gone(Message),
}

impl Rep {
    /// `protocol` is rep or respondent: they differ in what they announce only.
    pub(crate) fn new(protocol: Protocol, backlog: RecvLimits, ttl: u8) -> Self {
        let backlog = RecvLimits {
            messages: backlog.messages.max(1),
            ..backlog
        };
        Self {
            protocol,
            ttl,
            backlog,
            lanes: Vec::new(),
            ring: VecDeque::new(),
        }
    }

    /// The next request; pipes take turns.
    pub(crate) fn recv(&mut self) -> Option<(Origin, Message)> {
        let key = *self.ring.front()?;
        let lane = self.lanes.get_mut(key.slot)?;
        let pending = lane.pop();
        self.ring.pop_front();
        if !lane.requests.is_empty() {
            self.ring.push_back(key);
        }
        pending.map(|Pending { backtrace, body }| (Origin { key, backtrace }, body.into()))
    }

    /// Hands a reply to the pipe that asked.
    pub(crate) fn reply(&self, pipes: &mut Pipes, origin: &Origin, message: Message) -> Result<Key, Unsent> {
        if !pipes.contains(origin.key) {
            return Err(Unsent::Gone(message));
        }
        if !pipes.has_room(origin.key) {
            return Err(Unsent::Full(message));
        }
        pipes.push(origin.key, origin.backtrace.as_bytes(), message.into_bytes());
        Ok(origin.key)
    }
}

impl Pattern for Rep {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        if self.lanes.len() <= key.slot {
            self.lanes.resize_with(key.slot + 1, Lane::default);
        }
        Ok(())
    }

    /// What is pending goes with its pipe: nobody is left to answer to.
    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.ring.retain(|turn| *turn != key);
        if let Some(lane) = self.lanes.get_mut(key.slot) {
            *lane = Lane::default();
        }
    }

    fn handle_frames(
        &mut self,
        pipes: &mut Pipes,
        key: Key,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), Violation> {
        let Some(lane) = self.lanes.get_mut(key.slot) else {
            return Ok(());
        };
        let was_empty = lane.requests.is_empty();
        let mut result = Ok(());
        for mut body in frames.drain(..) {
            match Backtrace::split_off(&mut body, self.ttl) {
                Ok(backtrace) => {
                    pipes.drops.superseded += lane.push(Pending { backtrace, body }, self.backlog);
                }
                Err(BacktraceError::TooManyHops) => pipes.drops.too_many_hops += 1,
                Err(error) => {
                    result = Err(error.into());
                    break;
                }
            }
        }
        if was_empty && !lane.requests.is_empty() {
            self.ring.push_back(key);
        }
        result
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    /// Replies wait for their own pipe; the engine wakes them.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn can_recv(&self) -> bool {
        !self.ring.is_empty()
    }

    fn can_send(&self) -> bool {
        false
    }

    fn has_ready(&self) -> bool {
        false
    }
}
