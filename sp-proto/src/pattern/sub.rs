//! Sub: receives what it has subscribed to, in as many contexts as there are readers, each with topics and a
//! queue of its own.
//!
//! Pipes are always read: a context that is slow loses messages, and holds up neither the publisher nor the
//! other contexts.

use crate::pattern::{ContextId, Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

/// What a sub context whose queue is full does with the next message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Drops the oldest that is queued. The default, as in nng and mangos.
    #[default]
    DropOldest,
    /// Drops the one that has come in.
    DropNewest,
}

/// The state of a sub socket.
#[derive(Debug)]
pub(crate) struct Sub {
    limits: RecvLimits,
    overflow: Overflow,
    contexts: BTreeMap<ContextId, Reader>,
    /// Contexts that have something new for their receiver.
    ready: Vec<ContextId>,
    next_context: u64,
}

/// One context.
#[derive(Debug, Default)]
struct Reader {
    topics: Topics,
    queue: VecDeque<Bytes>,
    bytes: usize,
}

/// The prefixes that are subscribed to, by length: matching costs a look-up for each length that occurs,
/// however many there are.
#[derive(Debug, Default)]
struct Topics {
    by_length: BTreeMap<usize, HashSet<Bytes>>,
}

impl Topics {
    fn insert(&mut self, topic: Bytes) -> bool {
        self.by_length.entry(topic.len()).or_default().insert(topic)
    }

    fn remove(&mut self, topic: &[u8]) -> bool {
        let Some(topics) = self.by_length.get_mut(&topic.len()) else {
            return false;
        };
        let removed = topics.remove(topic);
        if topics.is_empty() {
            self.by_length.remove(&topic.len());
        }
        removed
    }

    fn matches(&self, message: &[u8]) -> bool {
        self.by_length
            .range(..=message.len())
            .any(|(length, topics)| message.get(..*length).is_some_and(|start| topics.contains(start)))
    }
}

impl Reader {
    fn pop(&mut self) -> Option<Bytes> {
        let body = self.queue.pop_front()?;
        self.bytes -= body.len();
        Some(body)
    }

    /// Queues a message and says how many were dropped for it; itself, perhaps.
    fn push(&mut self, body: &Bytes, limits: RecvLimits, overflow: Overflow) -> u64 {
        let is_full = |reader: &Self| {
            reader.queue.len() >= limits.messages
                // One message is kept, whatever its length.
                || (reader.bytes + body.len() > limits.bytes && !reader.queue.is_empty())
        };
        let mut dropped = 0;
        while is_full(self) {
            dropped += 1;
            match overflow {
                Overflow::DropNewest => return dropped,
                Overflow::DropOldest => drop(self.pop()),
            }
        }
        self.bytes += body.len();
        self.queue.push_back(body.clone());
        dropped
    }
}

impl Sub {
    /// The context that every sub socket has.
    pub(crate) const MAIN: ContextId = ContextId(0);

    pub(crate) fn new(limits: RecvLimits, overflow: Overflow) -> Self {
        Self {
            limits: RecvLimits {
                messages: limits.messages.max(1),
                bytes: limits.bytes.max(1),
            },
            overflow,
            contexts: BTreeMap::from([(Self::MAIN, Reader::default())]),
            ready: Vec::new(),
            next_context: 0,
        }
    }

    pub(crate) fn open(&mut self) -> ContextId {
        self.next_context += 1;
        let id = ContextId(self.next_context);
        self.contexts.insert(id, Reader::default());
        id
    }

    pub(crate) fn close(&mut self, pipes: &mut Pipes, context: ContextId) {
        if let Some(reader) = self.contexts.remove(&context) {
            pipes.drops.unread += reader.queue.len() as u64;
        }
    }

    /// Says whether the topic is new.
    pub(crate) fn subscribe(&mut self, context: ContextId, topic: Bytes) -> bool {
        self.contexts
            .get_mut(&context)
            .is_some_and(|reader| reader.topics.insert(topic))
    }

    /// Says whether there was this subscription. What is queued and no longer wanted is dropped.
    pub(crate) fn unsubscribe(&mut self, pipes: &mut Pipes, context: ContextId, topic: &[u8]) -> bool {
        let Some(reader) = self.contexts.get_mut(&context) else {
            return false;
        };
        let removed = reader.topics.remove(topic);
        let Reader { topics, queue, bytes } = reader;
        let before = queue.len();
        queue.retain(|body| topics.matches(body));
        pipes.drops.unread += (before - queue.len()) as u64;
        *bytes = queue.iter().map(Bytes::len).sum();
        removed
    }

    /// The next message of this context.
    pub(crate) fn recv(&mut self, context: ContextId) -> Option<Message> {
        self.contexts.get_mut(&context)?.pop().map(Message::from)
    }
}

impl Pattern for Sub {
    fn protocol(&self) -> Protocol {
        Protocol::Sub
    }

    fn attach(&mut self, _: &mut Pipes, _: Key, _: Instant) -> Result<(), Refusal> {
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        for body in frames.drain(..) {
            let mut wanted = false;
            for (id, reader) in &mut self.contexts {
                if !reader.topics.matches(&body) {
                    continue;
                }
                wanted = true;
                if *id != Self::MAIN && reader.queue.is_empty() {
                    self.ready.push(*id);
                }
                pipes.drops.slow_reader += reader.push(&body, self.limits, self.overflow);
            }
            pipes.drops.not_subscribed += u64::from(!wanted);
        }
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    /// Nothing is ever sent, so nothing is ever full.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    /// The main context's receivers; each other context has its own.
    fn can_recv(&self) -> bool {
        self.contexts
            .get(&Self::MAIN)
            .is_some_and(|reader| !reader.queue.is_empty())
    }

    fn has_one_queue(&self) -> bool {
        self.contexts.len() == 1
    }

    fn can_send(&self) -> bool {
        false
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn pop_ready(&mut self) -> Option<ContextId> {
        self.ready.pop()
    }
}
