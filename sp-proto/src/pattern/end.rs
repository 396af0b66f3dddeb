//! One end of a conversation without sockets, tasks or time: what the simulated world and the random
//! operations are made of. Only in tests and fuzz targets.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what it checks is a fault of ours, which must fail the test"
)]

use super::{Key, Pattern, Pipes, RecvLimits, Refusal, SendLimits, Violation};
use crate::PipeId;
use crate::wire::{Decoder, Framing};
use bytes::Bytes;
use std::io::IoSlice;
use std::time::Instant;

pub(super) const SEND: SendLimits = SendLimits {
    messages: 4,
    bytes: 1 << 20,
};
pub(super) const RECV: RecvLimits = RecvLimits {
    messages: 8,
    bytes: 1 << 20,
};

/// So many of the newest requests, of any length.
pub(super) const fn newest(messages: usize) -> RecvLimits {
    RecvLimits {
        messages,
        bytes: usize::MAX,
    }
}

/// One socket without its engine.
pub(super) struct End<P> {
    pub(super) pattern: P,
    pub(super) pipes: Pipes,
    pub(super) now: Instant,
}

impl<P: Pattern> End<P> {
    pub(super) fn new(pattern: P) -> Self {
        Self {
            pattern,
            pipes: Pipes::new(SEND),
            now: Instant::now(),
        }
    }

    pub(super) fn join(&mut self) -> Result<Key, Refusal> {
        let key = self.pipes.insert(PipeId::next(), Framing::Tcp);
        self.pattern
            .attach(&mut self.pipes, key, self.now)
            .inspect_err(|_| {
                self.pipes.remove(key);
            })?;
        Ok(key)
    }

    pub(super) fn leave(&mut self, key: Key) {
        assert!(self.pipes.remove(key));
        self.pattern.detach(&mut self.pipes, key, self.now);
    }

    /// Everything that is queued on this pipe, as the frames that the peer would decode.
    pub(super) fn flush(&mut self, key: Key) -> Vec<Bytes> {
        let (mut decoder, mut frames) = (Decoder::new(Framing::Tcp, 0), Vec::new());
        while let Some(mut batch) = self.pipes.begin(key) {
            while !batch.is_empty() {
                let mut slices = [IoSlice::new(&[]); 8];
                let used = batch.io_slices(&mut slices);
                let bytes = slices[..used]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect::<Vec<_>>();
                decoder.decode(&bytes, &mut frames).unwrap();
                batch.advance(bytes.len());
            }
            if self.pipes.end(key, batch) {
                self.pattern.handle_room(&mut self.pipes, key, self.now);
            }
        }
        frames
    }

    pub(super) fn handle(&mut self, key: Key, mut frames: Vec<Bytes>) -> Result<(), Violation> {
        self.pattern.handle_frames(&mut self.pipes, key, &mut frames)
    }

    pub(super) fn signalled(&mut self) -> Vec<Key> {
        std::iter::from_fn(|| self.pipes.pop_signal()).collect()
    }
}
