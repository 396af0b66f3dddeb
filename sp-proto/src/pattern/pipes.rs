//! The sending side of a socket's pipes: what waits to be written, and which pipe needs attention.

use crate::wire::{Batch, Framing};
use crate::{Drops, PipeId, PipeStats, Stats, Traffic};
use bytes::Bytes;

/// The buffer that an idle pipe keeps for its next batch, in bytes.
const KEPT_IDLE: usize = 2 * 1024;

/// The buffer that a busy pipe keeps, in bytes. Less than what a full queue of small messages needs would
/// have the system map and unmap the rest with each write.
const KEPT_BUSY: usize = 1024 * 1024;

/// Flushes of at most this many messages mean that the pipe is not under load.
const LIGHT: usize = 2;

/// So many bytes make a good write: more in one call would not make it cheaper.
const HEAP: usize = 64 * 1024;

/// How much one pipe may queue for sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Names a pipe within its socket. A key whose pipe is gone finds nothing, even when its slot is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: usize,
    pub(crate) id: PipeId,
}

/// All pipes of a socket.
#[derive(Debug)]
pub(crate) struct Pipes {
    outboxes: Vec<Option<Outbox>>,
    free: Vec<usize>,
    signals: Vec<Key>,
    limits: SendLimits,
    /// What the patterns have dropped.
    pub(crate) drops: Drops,
    /// The traffic of the pipes that are gone.
    gone: (Traffic, Traffic),
}

/// What waits to be written to one pipe. Whoever has begun a write owns the bytes until the write has ended,
/// so frames never overtake each other.
#[derive(Debug)]
struct Outbox {
    id: PipeId,
    queue: Batch,
    /// Begun but not finished; goes before `queue`.
    unfinished: Option<Batch>,
    spare: Option<Batch>,
    writing: bool,
    /// Messages and bytes that are begun and not finished.
    begun: (usize, usize),
    full: bool,
    signalled: bool,
    sent: Traffic,
    received: Traffic,
    /// May the next message be written at once by whoever sends it? See [`Pipes::begin_direct`].
    direct: bool,
}

impl Outbox {
    fn has_room(&self, limits: SendLimits) -> bool {
        self.queue.messages() + self.begun.0 < limits.messages
            && self.queue.bytes() + self.begun.1 < limits.bytes
    }

    fn begin(&mut self) -> Option<Batch> {
        if self.writing {
            return None;
        }
        if let Some(batch) = self.unfinished.take() {
            self.writing = true;
            return Some(batch);
        }
        if self.queue.messages() == 0 {
            return None;
        }
        let next = self
            .spare
            .take()
            .unwrap_or_else(|| Batch::new(self.queue.framing()));
        let batch = std::mem::replace(&mut self.queue, next);
        self.begun = (batch.messages(), batch.bytes());
        self.writing = true;
        Some(batch)
    }
}

impl Pipes {
    pub(crate) fn new(limits: SendLimits) -> Self {
        let limits = SendLimits {
            messages: limits.messages.max(1),
            bytes: limits.bytes.max(1),
        };
        Self {
            outboxes: Vec::new(),
            free: Vec::new(),
            signals: Vec::new(),
            limits,
            drops: Drops::default(),
            gone: (Traffic::default(), Traffic::default()),
        }
    }

    pub(crate) fn insert(&mut self, id: PipeId, framing: Framing) -> Key {
        let outbox = Outbox {
            id,
            queue: Batch::new(framing),
            unfinished: None,
            spare: None,
            writing: false,
            begun: (0, 0),
            full: false,
            signalled: false,
            sent: Traffic::default(),
            received: Traffic::default(),
            direct: true,
        };
        let slot = self.free.pop().unwrap_or(self.outboxes.len());
        match self.outboxes.get_mut(slot) {
            Some(free) => *free = Some(outbox),
            None => self.outboxes.push(Some(outbox)),
        }
        Key { slot, id }
    }

    pub(crate) fn remove(&mut self, key: Key) -> bool {
        let Some(Outbox { sent, received, .. }) = self.get(key) else {
            return false;
        };
        let (sent, received) = (*sent, *received);
        self.gone.0 += sent;
        self.gone.1 += received;
        if let Some(slot) = self.outboxes.get_mut(key.slot) {
            *slot = None;
            self.free.push(key.slot);
        }
        true
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.outboxes
            .get(key.slot)
            .and_then(Option::as_ref)
            .is_some_and(|outbox| outbox.id == key.id)
    }

    fn get(&mut self, key: Key) -> Option<&mut Outbox> {
        self.outboxes
            .get_mut(key.slot)?
            .as_mut()
            .filter(|outbox| outbox.id == key.id)
    }

    /// Does this pipe take another message?
    pub(crate) fn has_room(&mut self, key: Key) -> bool {
        let limits = self.limits;
        self.get(key).is_some_and(|outbox| outbox.has_room(limits))
    }

    /// Do messages wait on this pipe whose write has not begun?
    pub(crate) fn has_queued(&mut self, key: Key) -> bool {
        self.get(key).is_some_and(|outbox| outbox.queue.messages() > 0)
    }

    /// Queues a message and says whether there is room for another. Asking first is the caller's part.
    pub(crate) fn push(&mut self, key: Key, header: &[u8], body: Bytes) -> bool {
        let limits = self.limits;
        let Some(outbox) = self.get(key) else { return false };
        outbox.sent += Traffic {
            messages: 1,
            bytes: (header.len() + body.len()) as u64,
        };
        outbox.queue.push(header, body);
        outbox.full = !outbox.has_room(limits);
        let room = !outbox.full;
        self.signal(key);
        room
    }

    /// Asks for the attention of the pipe's driver.
    pub(crate) fn signal(&mut self, key: Key) {
        if let Some(outbox) = self.get(key)
            && !outbox.signalled
        {
            outbox.signalled = true;
            self.signals.push(key);
        }
    }

    /// Is any driver asked for?
    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    /// The next pipe whose driver is asked for.
    pub(crate) fn pop_signal(&mut self) -> Option<Key> {
        self.signals.pop()
    }

    /// The driver's turn: what is to be written now, if no write is under way. Its signal is answered by
    /// this.
    pub(crate) fn begin(&mut self, key: Key) -> Option<Batch> {
        let outbox = self.get(key)?;
        outbox.signalled = false;
        outbox.begin()
    }

    /// The sender's turn, right after its push. It writes itself
    /// - on an idle pipe, which saves the hop to the driver. Under load that would be one write per message,
    ///   so after one such write the next message goes through the driver, until something comes in on this
    ///   pipe (a conversation) or a flush turns out to be light;
    /// - when enough is queued for a good write or the queue is full: it would have to wait otherwise.
    pub(crate) fn begin_direct(&mut self, key: Key) -> Option<Batch> {
        let unannounced = self.signals.last() == Some(&key);
        let outbox = self.get(key)?;
        let alone = unannounced && outbox.direct && outbox.queue.messages() == 1;
        let heap = outbox.full || outbox.queue.bytes() >= HEAP;
        if !(alone || heap) || outbox.unfinished.is_some() {
            return None;
        }
        let batch = outbox.begin()?;
        outbox.direct = false;
        if unannounced {
            outbox.signalled = false;
            self.signals.pop();
        }
        Some(batch)
    }

    /// Ends a write that was begun; what is left of `batch` goes first next time. Says whether a full pipe
    /// now has room.
    pub(crate) fn end(&mut self, key: Key, mut batch: Batch) -> bool {
        let limits = self.limits;
        let Some(outbox) = self.get(key) else { return false };
        outbox.writing = false;
        if !batch.is_empty() {
            outbox.unfinished = Some(batch);
            return false;
        }
        outbox.begun = (0, 0);
        let light = batch.messages() <= LIGHT;
        batch.clear(if light { KEPT_IDLE } else { KEPT_BUSY });
        outbox.spare = Some(batch);
        if outbox.full && outbox.has_room(limits) {
            outbox.full = false;
            return true;
        }
        false
    }

    /// The driver has flushed everything: a light flush gives the right to direct writes back.
    pub(crate) fn note_flush(&mut self, key: Key, messages: usize) {
        if messages <= LIGHT
            && let Some(outbox) = self.get(key)
        {
            outbox.direct = true;
        }
    }

    /// These came in on this pipe.
    pub(crate) fn note_received(&mut self, key: Key, frames: &[Bytes]) {
        if let Some(outbox) = self.get(key) {
            outbox.received += Traffic {
                messages: frames.len() as u64,
                bytes: frames.iter().map(Bytes::len).sum::<usize>() as u64,
            };
            outbox.direct = true;
        }
    }

    /// What has gone through so far.
    pub(crate) fn stats(&self) -> Stats {
        let (mut sent, mut received) = self.gone;
        let mut pipes = Vec::new();
        for outbox in self.outboxes.iter().flatten() {
            sent += outbox.sent;
            received += outbox.received;
            pipes.push(PipeStats {
                pipe: outbox.id,
                sent: outbox.sent,
                received: outbox.received,
            });
        }
        pipes.sort_unstable_by_key(|stats| stats.pipe);
        Stats {
            sent,
            received,
            dropped: self.drops,
            pipes,
        }
    }

    /// Is nothing queued or being written on this pipe?
    pub(crate) fn is_flushed(&mut self, key: Key) -> bool {
        self.get(key).is_none_or(|outbox| {
            !outbox.writing && outbox.unfinished.is_none() && outbox.queue.messages() == 0
        })
    }
}
