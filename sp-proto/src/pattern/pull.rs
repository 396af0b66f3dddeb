//! Pull: collects messages, fair over its pipes.

use crate::pattern::fair_queue::FairQueue;
use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::time::Instant;

/// The state of a pull socket.
#[derive(Debug)]
pub(crate) struct Pull {
    queue: FairQueue,
}

impl Pull {
    pub(crate) fn new(limits: RecvLimits) -> Self {
        Self {
            queue: FairQueue::new(limits),
        }
    }

    /// The next message.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes) -> Option<Message> {
        self.queue.pop(pipes).map(Message::from)
    }
}

impl Pattern for Pull {
    fn protocol(&self) -> Protocol {
        Protocol::Pull
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.queue.attach(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.queue.detach(key);
    }

    fn handle_frames(&mut self, _: &mut Pipes, key: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        self.queue.push(key, frames);
        Ok(())
    }

    fn may_read(&mut self, key: Key) -> bool {
        self.queue.may_read(key)
    }

    /// Nothing is ever sent, so nothing is ever full.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn can_recv(&self) -> bool {
        !self.queue.is_empty()
    }

    fn can_send(&self) -> bool {
        false
    }

    fn has_ready(&self) -> bool {
        false
    }
}
