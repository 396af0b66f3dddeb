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
                unsent: outbox.queue.messages() + outbox.begun.0,
                unread: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket with one pipe that is under load: the right to write single messages is spent.
    fn loaded(limits: SendLimits) -> (Pipes, Key) {
        let mut pipes = Pipes::new(limits);
        let key = pipes.insert(PipeId::next(), Framing::Tcp);
        push(&mut pipes, key, 1);
        let alone = pipes
            .begin_direct(key)
            .expect("an idle pipe is written to at once");
        finish(&mut pipes, key, alone);
        (pipes, key)
    }

    fn push(pipes: &mut Pipes, key: Key, len: usize) -> bool {
        pipes.push(key, &[], vec![7; len].into())
    }

    /// All of it is written.
    fn finish(pipes: &mut Pipes, key: Key, mut batch: Batch) -> bool {
        while !batch.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[])];
            let used = batch.io_slices(&mut slices);
            let written = slices.iter().take(used).map(|slice| slice.len()).sum();
            batch.advance(written);
        }
        pipes.end(key, batch)
    }

    const WIDE: SendLimits = SendLimits {
        messages: 1000,
        bytes: 1024 * 1024,
    };

    #[test]
    fn under_load_the_sender_writes_what_makes_a_good_write_and_the_driver_the_rest() {
        let (mut pipes, key) = loaded(WIDE);
        for _ in 0..HEAP / 1024 - 1 {
            assert!(push(&mut pipes, key, 1024));
            assert!(pipes.begin_direct(key).is_none(), "too little to write");
        }
        assert_eq!(pipes.pop_signal(), Some(key), "the driver is asked once");
        assert!(pipes.pop_signal().is_none());
        push(&mut pipes, key, 1024);
        let heap = pipes.begin_direct(key).expect("64 KiB");
        assert_eq!(heap.bytes(), HEAP);
        push(&mut pipes, key, HEAP);
        assert!(pipes.begin_direct(key).is_none(), "one write at a time");
        assert!(pipes.begin(key).is_none(), "the driver waits as well");
        assert!(!finish(&mut pipes, key, heap), "it was not full");
        let rest = pipes.begin(key).expect("what came meanwhile");
        finish(&mut pipes, key, rest);
        assert!(pipes.is_flushed(key));
    }

    #[test]
    fn a_sender_that_fills_the_queue_writes_it_and_finds_room_again() {
        let (mut pipes, key) = loaded(SendLimits { messages: 3, ..WIDE });
        assert!(push(&mut pipes, key, 1) && push(&mut pipes, key, 1));
        assert!(pipes.begin_direct(key).is_none());
        assert!(!push(&mut pipes, key, 1), "full");
        let full = pipes.begin_direct(key).expect("a full queue");
        assert!(!pipes.has_room(key), "what is being written still counts");
        assert!(finish(&mut pipes, key, full), "there is room again");
        assert!(pipes.has_room(key));
    }

    #[test]
    fn what_a_write_leaves_behind_goes_first_and_through_the_driver() {
        let (mut pipes, key) = loaded(WIDE);
        push(&mut pipes, key, HEAP);
        let mut heap = pipes.begin_direct(key).expect("64 KiB");
        heap.advance(100);
        assert!(!pipes.end(key, heap));
        push(&mut pipes, key, HEAP);
        assert!(pipes.begin_direct(key).is_none(), "it must not overtake");
        let first = pipes.begin(key).expect("the unfinished one");
        assert_eq!((first.messages(), first.bytes()), (1, HEAP));
        finish(&mut pipes, key, first);
        assert!(!pipes.is_flushed(key));
    }
}
