//! The receiving queue of pair, pull, bus and the raw sockets: one lane per pipe, served in turn.

use crate::pattern::{Key, Pipes};
use bytes::Bytes;
use std::collections::VecDeque;

/// How much is queued for receivers before a pipe is no longer read. Checked before each read, so what one
/// read brings may go beyond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecvLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What a queue holds.
pub(crate) trait Queued {
    /// Its length, in bytes.
    fn size(&self) -> usize;
}

impl Queued for Bytes {
    fn size(&self) -> usize {
        self.len()
    }
}

/// Messages that wait for a receiver.
#[derive(Debug)]
pub(crate) struct FairQueue<T = Bytes> {
    limits: RecvLimits,
    /// By pipe slot.
    lanes: Vec<Lane<T>>,
    /// The slots of the lanes that hold something, the next one first.
    ring: VecDeque<usize>,
    /// What pipes that are gone have left behind; served first, and counted against every lane's limit.
    orphans: Backlog<T>,
}

#[derive(Debug)]
struct Lane<T> {
    backlog: Backlog<T>,
    /// Set while its pipe is not to be read.
    paused: Option<Key>,
}

#[derive(Debug)]
struct Backlog<T> {
    messages: VecDeque<T>,
    bytes: usize,
}

// Not derived: an empty one needs no default of `T`.
impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            backlog: Backlog::default(),
            paused: None,
        }
    }
}

impl<T: Queued> Backlog<T> {
    fn pop(&mut self) -> Option<T> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.size();
        Some(message)
    }
}

impl<T: Queued> FairQueue<T> {
    pub(crate) fn new(limits: RecvLimits) -> Self {
        let limits = RecvLimits {
            messages: limits.messages.max(1),
            bytes: limits.bytes.max(1),
        };
        Self {
            limits,
            lanes: Vec::new(),
            ring: VecDeque::new(),
            orphans: Backlog::default(),
        }
    }

    pub(crate) fn attach(&mut self, key: Key) {
        if self.lanes.len() <= key.slot {
            self.lanes.resize_with(key.slot + 1, Lane::default);
        }
    }

    pub(crate) fn detach(&mut self, key: Key) {
        self.ring.retain(|slot| *slot != key.slot);
        if let Some(lane) = self.lanes.get_mut(key.slot) {
            let Lane { backlog, .. } = std::mem::take(lane);
            self.orphans.bytes += backlog.bytes;
            self.orphans.messages.extend(backlog.messages);
        }
    }

    /// Queues what has come in on a pipe.
    pub(crate) fn push(&mut self, key: Key, frames: &mut Vec<T>) {
        let Some(Lane { backlog, .. }) = self.lanes.get_mut(key.slot) else {
            return;
        };
        if frames.is_empty() {
            return;
        }
        if backlog.messages.is_empty() {
            self.ring.push_back(key.slot);
            if backlog.messages.capacity() > 8 * frames.len().max(8) {
                // The room for a flood is not kept once it is over.
                backlog.messages.shrink_to(frames.len());
            }
        }
        backlog.bytes += frames.iter().map(T::size).sum::<usize>();
        backlog.messages.extend(frames.drain(..));
    }

    /// The next message; lanes take turns.
    pub(crate) fn pop(&mut self, pipes: &mut Pipes) -> Option<T> {
        if let Some(message) = self.orphans.pop() {
            for lane in &mut self.lanes {
                lane.resume(&self.orphans, self.limits, pipes);
            }
            return Some(message);
        }
        let lane = self.lanes.get_mut(*self.ring.front()?)?;
        let message = lane.backlog.pop();
        lane.resume(&self.orphans, self.limits, pipes);
        if lane.backlog.messages.is_empty() {
            self.ring.pop_front();
        } else if self.ring.len() > 1 {
            self.ring.rotate_left(1);
        }
        message
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.orphans.messages.is_empty()
    }

    /// May this pipe be read? After a no it is signalled as soon as its backlog is down to half the limit.
    pub(crate) fn may_read(&mut self, key: Key) -> bool {
        let Some(lane) = self.lanes.get_mut(key.slot) else {
            return false;
        };
        let full = lane.backlog.messages.len() + self.orphans.messages.len() >= self.limits.messages
            || lane.backlog.bytes + self.orphans.bytes >= self.limits.bytes;
        if full {
            lane.paused = Some(key);
        }
        !full
    }
}

impl<T> Lane<T> {
    /// Has the pipe read again if it is paused and there is half the room.
    fn resume(&mut self, orphans: &Backlog<T>, limits: RecvLimits, pipes: &mut Pipes) {
        let Some(key) = self.paused else { return };
        let messages = self.backlog.messages.len() + orphans.messages.len();
        let bytes = self.backlog.bytes + orphans.bytes;
        if messages <= limits.messages / 2 && bytes <= limits.bytes / 2 {
            self.paused = None;
            pipes.signal(key);
        }
    }
}
