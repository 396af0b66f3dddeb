//! The encoder: messages on their way out, as the frames of one write.

use crate::wire::Framing;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Payloads up to this many bytes are copied behind their header: cheaper than a slice of their own in the
/// write.
const COPY_MAX: usize = 4 * 1024;

/// Frames that wait to be written.
///
/// Headers and small payloads lie in one buffer; a large payload is kept as it came and is written from where
/// it is. Where whole messages are handed over, one with a header is copied behind it.
#[derive(Debug)]
pub struct Batch {
    framing: Framing,
    buffer: Vec<u8>,
    /// How much of `buffer` is written.
    cursor: usize,
    /// Large payloads, each with the place in `buffer` where it belongs.
    bodies: VecDeque<(usize, Bytes)>,
    messages: usize,
    bytes: usize,
}

impl Batch {
    /// An empty batch for a transport with this framing.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            buffer: Vec::new(),
            cursor: 0,
            bodies: VecDeque::new(),
            messages: 0,
            bytes: 0,
        }
    }

    /// Adds one message: its protocol header, then its payload.
    pub fn push(&mut self, header: &[u8], body: Bytes) {
        let len = header.len() + body.len();
        self.messages += 1;
        self.bytes += len;
        match self.framing {
            Framing::Tcp => self.buffer.extend_from_slice(&(len as u64).to_be_bytes()),
            Framing::Ipc => {
                let [a, b, c, d, e, f, g, h] = (len as u64).to_be_bytes();
                self.buffer
                    .extend_from_slice(&[Framing::IPC_MESSAGE, a, b, c, d, e, f, g, h]);
            }
            Framing::Inproc => {
                let whole = if header.is_empty() {
                    body
                } else {
                    [header, &body].concat().into()
                };
                self.bodies.push_back((0, whole));
                return;
            }
        }
        self.buffer.extend_from_slice(header);
        if body.len() <= COPY_MAX {
            self.buffer.extend_from_slice(&body);
        } else {
            self.bodies.push_back((self.buffer.len(), body));
        }
    }

    /// The framing of its transport.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// How many messages were added since the batch was empty.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Their length in bytes, without framing.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is everything written?
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.cursor == self.buffer.len()
    }

    /// Fills `slices` with what comes next and says how many it used.
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut from = self.cursor;
        let rest = [(self.buffer.len(), Bytes::new())];
        // The end of the buffer is handled as the place of one more, empty payload.
        let ends = self
            .bodies
            .iter()
            .map(|(at, body)| (*at, &body[..]))
            .chain(rest.iter().map(|(at, _)| (*at, &[][..])));
        for (at, body) in ends {
            for part in [self.buffer.get(from..at).unwrap_or_default(), body] {
                if part.is_empty() {
                    continue;
                }
                let Some(slot) = slices.get_mut(used) else {
                    return used;
                };
                *slot = IoSlice::new(part);
                used += 1;
            }
            from = at;
        }
        used
    }

    /// Notes that the next `written` bytes of what [`Batch::io_slices`] gave are written.
    pub fn advance(&mut self, mut written: usize) {
        while written > 0 {
            match self.bodies.front_mut() {
                Some((at, body)) if *at == self.cursor => {
                    let step = written.min(body.len());
                    written -= step;
                    if step == body.len() {
                        self.bodies.pop_front();
                    } else {
                        drop(body.split_to(step));
                    }
                }
                front => {
                    let end = front.map_or(self.buffer.len(), |(at, _)| *at);
                    let step = written.min(end - self.cursor);
                    if step == 0 {
                        debug_assert!(false, "more was written than there was");
                        return;
                    }
                    self.cursor += step;
                    written -= step;
                }
            }
        }
    }

    /// The next whole message of an inproc batch.
    pub fn pop_message(&mut self) -> Option<Bytes> {
        self.bodies.pop_front().map(|(_, body)| body)
    }

    /// Makes the batch ready for use again. Keeps at most `keep` bytes of its buffer.
    pub fn clear(&mut self, keep: usize) {
        self.buffer.clear();
        self.buffer.shrink_to(keep);
        self.bodies.clear();
        self.bodies.shrink_to(64);
        self.cursor = 0;
        self.messages = 0;
        self.bytes = 0;
    }
}
