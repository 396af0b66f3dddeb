//! Messages that begin with their number, and their check.

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Makes messages with rising numbers. The buffers of large ones are used again once they are sent.
pub(crate) struct Numbered {
    size: usize,
    next: u64,
    sent: VecDeque<Bytes>,
}

impl Numbered {
    /// Below this, a new buffer costs less than keeping track of old ones.
    const LARGE: usize = 8 * 1024;

    /// Messages of `size` bytes, at least 8.
    pub(crate) fn new(size: usize, first: u64) -> Self {
        Self {
            size,
            next: first,
            sent: VecDeque::new(),
        }
    }

    /// The number of the next message.
    pub(crate) fn number(&self) -> u64 {
        self.next
    }

    pub(crate) fn next(&mut self) -> Bytes {
        let number = self.next.to_ne_bytes();
        self.next += 1;
        if self.size < Self::LARGE {
            let mut message = Vec::with_capacity(self.size);
            message.extend_from_slice(&number);
            message.resize(self.size, 0);
            return message.into();
        }
        let used = self.sent.pop_front().map(Bytes::try_into_mut);
        let mut message = match used {
            Some(Ok(message)) => message,
            Some(Err(in_use)) => {
                self.sent.push_front(in_use);
                BytesMut::zeroed(self.size)
            }
            None => BytesMut::zeroed(self.size),
        };
        message[..8].copy_from_slice(&number);
        let message = message.freeze();
        self.sent.push_back(message.clone());
        message
    }
}

/// The number of a message that should have `size` bytes.
pub(crate) fn number(message: &[u8], size: usize) -> Result<u64> {
    ensure!(
        message.len() == size,
        "a message of {} bytes came, expected {size}",
        message.len()
    );
    Ok(u64::from_ne_bytes(message[..8].try_into()?))
}

/// Refuses a message of another length or with another number.
pub(crate) fn check(message: &[u8], expected: u64, size: usize) -> Result<()> {
    let number = number(message, size)?;
    ensure!(number == expected, "message {number} came, expected {expected}");
    Ok(())
}
