//! Pub: sends to every subscriber, and waits for none.

use crate::pattern::broadcast::Broadcast;
use crate::pattern::{Key, Pattern, Pipes, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::time::Instant;

/// The state of a pub socket.
#[derive(Debug, Default)]
pub(crate) struct Pub {
    peers: Broadcast,
}

impl Pub {
    /// Queues the message for every subscriber with room; gives one of their pipes.
    pub(crate) fn send(&self, pipes: &mut Pipes, message: Message) -> Option<Key> {
        self.peers.send(pipes, &[], &message.into_bytes(), None)
    }
}

impl Pattern for Pub {
    fn protocol(&self) -> Protocol {
        Protocol::Pub
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.peers.attach(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.peers.detach(key);
    }

    /// Nobody receives on a pub socket: what a peer sends all the same is dropped.
    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        pipes.drops.unexpected += frames.drain(..).len() as u64;
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    /// Nobody ever waits for room.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn can_recv(&self) -> bool {
        false
    }

    fn can_send(&self) -> bool {
        true
    }

    fn has_ready(&self) -> bool {
        false
    }
}
