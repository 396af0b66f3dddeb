//! Bus: sends to every neighbour, and waits for none; receives from all of them, fairly.

use crate::pattern::broadcast::Broadcast;
use crate::pattern::fair_queue::FairQueue;
use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::time::Instant;

/// The state of a bus socket.
#[derive(Debug)]
pub(crate) struct Bus {
    peers: Broadcast,
    queue: FairQueue,
}

impl Bus {
    pub(crate) fn new(limits: RecvLimits) -> Self {
        Self {
            peers: Broadcast::default(),
            queue: FairQueue::new(limits),
        }
    }

    /// Queues the message for every neighbour with room; gives one of their pipes.
    pub(crate) fn send(&self, pipes: &mut Pipes, message: Message) -> Option<Key> {
        self.peers.send(pipes, &[], &message.into_bytes(), None)
    }

    /// The next message.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes) -> Option<Message> {
        self.queue.pop(pipes).map(Message::from)
    }
}

impl Pattern for Bus {
    fn protocol(&self) -> Protocol {
        Protocol::Bus
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.peers.attach(key);
        self.queue.attach(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.peers.detach(key);
        self.queue.detach(key);
    }

    fn handle_frames(&mut self, _: &mut Pipes, key: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        self.queue.push(key, frames);
        Ok(())
    }

    fn may_read(&mut self, key: Key) -> bool {
        self.queue.may_read(key)
    }

    /// Nobody ever waits for room.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn can_recv(&self) -> bool {
        !self.queue.is_empty()
    }

    fn can_send(&self) -> bool {
        true
    }

    fn has_ready(&self) -> bool {
        false
    }
}
