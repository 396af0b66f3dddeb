//! Pair: one peer at a time, both directions, in its two versions. Version 1 puts a hop count in front of
//! each message.

use crate::pattern::fair_queue::FairQueue;
use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::{Buf, Bytes};
use std::time::Instant;

/// The hop count of a message that comes from its origin, as it goes over the wire.
const FIRST_HOP: [u8; 4] = [0, 0, 0, 1];

/// The state of a pair socket.
#[derive(Debug)]
pub(crate) struct Pair {
    version: Version,
    peer: Option<Peer>,
    queue: FairQueue,
}

/// The two pair protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V0,
    V1 { ttl: u8 },
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: Key,
    pub(super) room: bool,
}

impl Pair {
    pub(crate) fn new(version: Version, limits: RecvLimits) -> Self {
        Self {
            version,
            peer: None,
            queue: FairQueue::new(limits),
        }
    }

    /// Hands the message to the peer, or gives it back when there is none or its queue is full.
    pub(crate) fn send(&mut self, pipes: &mut Pipes, message: Message) -> Result<Key, Message> {
        let header = match self.version {
            Version::V0 => &[][..],
            Version::V1 { .. } => &FIRST_HOP[..],
        };
        match &mut self.peer {
            Some(Peer { key, room }) if *room => {
                *room = pipes.push(*key, header, message.into_bytes());
                Ok(*key)
            }
            _ => Err(message),
        }
    }

    /// The next message.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes) -> Option<Message> {
        self.queue.pop(pipes).map(Message::from)
    }
}

/// Takes the hop count off a message of pair version 1; `None` when it is beyond `ttl`.
pub(super) fn take_hops(message: &mut Bytes, ttl: u8) -> Result<Option<u8>, Violation> {
    let word = message.try_get_u32().map_err(|_| Violation::HopCount)?;
    let hops = u8::try_from(word).map_err(|_| Violation::HopCount)?;
    Ok((hops <= ttl.max(1)).then_some(hops))
}

impl Pattern for Pair {
    fn protocol(&self) -> Protocol {
        match self.version {
            Version::V0 => Protocol::Pair0,
            Version::V1 { .. } => Protocol::Pair1,
        }
    }

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

    fn handle_frames(
        &mut self,
        pipes: &mut Pipes,
        key: Key,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), Violation> {
        let mut result = Ok(());
        if let Version::V1 { ttl } = self.version {
            frames.retain_mut(|frame| {
                // What came before a fault is still good, and nothing after it.
                if result.is_err() {
                    return false;
                }
                let hops = take_hops(frame, ttl);
                if hops == Ok(None) {
                    pipes.drops.too_many_hops += 1;
                }
                matches!(hops.map_err(|fault| result = Err(fault)), Ok(Some(_)))
            });
        }
        self.queue.push(key, frames);
        result
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
