//! Large payloads that were handed out, to be received into again once their receivers have dropped them.
//!
//! A fresh megabyte costs more than receiving it: the system hands out zeroed pages one fault at a time.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Payloads shorter than this, in bytes, are not kept: a new one costs next to nothing.
const SHORTEST: usize = 32 * 1024;

/// How much is kept at most, in bytes.
const CAPACITY: usize = 8 * 1024 * 1024;

/// The payloads that one thread received last, for all of its connections: at most 8 MiB, which stay allocated
/// after their receivers are done with them.
#[derive(Debug, Default)]
pub struct Spares {
    /// The oldest first.
    bodies: VecDeque<Bytes>,
    bytes: usize,
}

impl Spares {
    /// Notes a payload that is about to be handed out.
    pub(super) fn keep(&mut self, body: &Bytes) {
        if !(SHORTEST..=CAPACITY).contains(&body.len()) {
            return;
        }
        self.bytes += body.len();
        self.bodies.push_back(body.clone());
        while self.bytes > CAPACITY
            && let Some(oldest) = self.bodies.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// A buffer of just this length, with anything in it: one that nobody has any more, or a new one.
    pub(super) fn take_buffer(&mut self, length: usize) -> BytesMut {
        let unused = self.take_body(length).and_then(|body| body.try_into_mut().ok());
        unused.unwrap_or_else(|| BytesMut::zeroed(length))
    }

    /// The room of a payload of just this length that nobody has any more.
    pub(super) fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        if length < SHORTEST {
            return None;
        }
        let mut room = Vec::from(self.take_body(length)?);
        room.clear();
        Some(room)
    }

    fn take_body(&mut self, length: usize) -> Option<Bytes> {
        let fits = |body: &Bytes| body.len() == length && body.is_unique();
        // The last one is most likely still in the processor's cache.
        let place = self.bodies.iter().rposition(fits)?;
        let body = self.bodies.remove(place)?;
        self.bytes -= body.len();
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Bytes {
        vec![7; length].into()
    }

    #[test]
    fn a_payload_is_used_again_when_nobody_has_it_any_more() {
        let mut spares = Spares::default();
        let given = body(SHORTEST);
        let at = given.as_ptr();
        spares.keep(&given);
        assert_eq!(spares.take(SHORTEST), None, "its receiver still has it");
        let part = given.slice(1..2);
        drop(given);
        assert_eq!(spares.take(SHORTEST), None, "somebody has a part of it");
        drop(part);
        assert_eq!(spares.take(SHORTEST + 1), None, "too short");
        let again = spares.take(SHORTEST).unwrap();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (at, 0, SHORTEST));
        assert_eq!(spares.take(SHORTEST), None, "given once");
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn a_buffer_is_used_again_as_it_is() {
        let mut spares = Spares::default();
        let buffer = body(SHORTEST);
        let (at, part) = (buffer.as_ptr(), buffer.slice(1..2));
        spares.keep(&buffer);
        drop(buffer);
        assert_ne!(
            spares.take_buffer(SHORTEST).as_ptr(),
            at,
            "somebody has a part of it"
        );
        drop(part);
        let again = spares.take_buffer(SHORTEST);
        assert_eq!((again.as_ptr(), again.len()), (at, SHORTEST));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        spares.keep(&body(SHORTEST - 1));
        spares.keep(&body(CAPACITY + 1));
        assert!(spares.bodies.is_empty());
        for _ in 0..1000 {
            spares.keep(&body(SHORTEST));
            assert!(spares.bytes <= CAPACITY);
        }
        assert_eq!(spares.bytes, spares.bodies.len() * SHORTEST);
        spares.keep(&body(CAPACITY));
        assert_eq!((spares.bytes, spares.bodies.len()), (CAPACITY, 1));
    }
}
