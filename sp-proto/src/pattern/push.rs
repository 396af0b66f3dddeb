//! Push: deals messages out, round-robin over the pipes that can take one.

use crate::pattern::{Key, Pattern, Pipes, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;

/// The state of a push socket.
#[derive(Debug, Default)]
pub(crate) struct Push {
    /// The pipes with room, the one whose turn it is first.
    turns: VecDeque<Key>,
}

impl Push {
    /// Hands the message to the next pipe with room, or gives it back when there is none.
    pub(crate) fn send(&mut self, pipes: &mut Pipes, message: Message) -> Result<Key, Message> {
        let Some(key) = self.turns.pop_front() else {
            return Err(message);
        };
        if pipes.push(key, &[], message.into_bytes()) {
            self.turns.push_back(key);
        }
        Ok(key)
    }
}

impl Pattern for Push {
    fn protocol(&self) -> Protocol {
        Protocol::Push
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.turns.push_back(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.turns.retain(|turn| *turn != key);
    }

    /// Nobody receives on a push socket: what a peer sends all the same is dropped.
    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        pipes.drops.unexpected += frames.drain(..).len() as u64;
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    fn handle_room(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.turns.push_back(key);
    }

    fn can_recv(&self) -> bool {
        false
    }

    fn can_send(&self) -> bool {
        !self.turns.is_empty()
    }

    fn has_ready(&self) -> bool {
        false
    }
}
