//! Pair: one peer at a time, both directions.

use crate::pattern::fair_queue::FairQueue;
use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::time::Instant;

/// The state of a pair socket.
#[derive(Debug)]
pub(crate) struct Pair {
    peer: Option<Peer>,
    queue: FairQueue,
}

#[derive(Debug)]
struct Peer {
    key: Key,
    room: bool,
}

impl Pair {
    pub(crate) fn new(limits: RecvLimits) -> Self {
        Self {
            peer: None,
            queue: FairQueue::new(limits),
        }
    }

    /// Hands the message to the peer, or gives it back when there is none or its queue is full.
    pub(crate) fn send(&mut self, pipes: &mut Pipes, message: Message) -> Result<Key, Message> {
        match &mut self.peer {
            Some(Peer { key, room }) if *room => {
                *room = pipes.push(*key, &[], message.into_bytes());
                Ok(*key)
            }
            _ => Err(message),
        }
    }

    /// The next message.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes) -> Option<Message> {
        self.queue.pop(pipes)
    }
}

impl Pattern for Pair {
    const PROTOCOL: Protocol = Protocol::Pair0;

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        if self.peer.is_some() {
            return Err(Refusal::SecondPeer);
        }
        self.peer = Some(Peer { key, room: true });
        self.queue.attach(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.peer = None;
        self.queue.detach(key);
    }

    fn handle_frames(&mut self, _: &mut Pipes, key: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        self.queue.push(key, frames);
        Ok(())
    }

    fn may_read(&mut self, key: Key) -> bool {
        self.queue.may_read(key)
    }

    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {
        if let Some(peer) = &mut self.peer {
            peer.room = true;
        }
    }

    fn can_recv(&self) -> bool {
        !self.queue.is_empty()
    }

    fn can_send(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.room)
    }

    fn has_ready(&self) -> bool {
        false
    }
}
