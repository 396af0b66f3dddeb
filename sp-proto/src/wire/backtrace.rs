//! The backtrace: the stack of words in front of a request, which its reply carries home.

use bytes::{Buf, Bytes};

/// The most words that a backtrace may have, the request id included: the TTL that nng and mangos use.
pub const MAX_HOPS: usize = 8;

/// The bit that marks the last word of a backtrace.
pub const FINAL: u32 = 0x8000_0000;

const WORD: usize = size_of::<u32>();

/// The words in front of a request, kept as they came, to be put in front of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backtrace {
    bytes: [u8; MAX_HOPS * WORD],
    len: u8,
}

/// Why a request has no usable backtrace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BacktraceError {
    /// The message ends before a word with the top bit set: its sender is broken.
    #[error("malformed backtrace: the message ends without a request id")]
    Unterminated,
    /// More than [`MAX_HOPS`] words: the message went in circles; its sender is not to blame.
    #[error("the backtrace has more than {MAX_HOPS} hops")]
    TooManyHops,
}

impl Backtrace {
    /// Takes the backtrace off the front of `message`; what remains is the payload.
    ///
    /// # Errors
    /// The stack is not terminated, or too deep. `message` is then of no use.
    pub fn split_off(message: &mut Bytes) -> Result<Self, BacktraceError> {
        let mut len = 0;
        for word in message.chunks(WORD).take(MAX_HOPS) {
            let word: [u8; WORD] = word.try_into().map_err(|_| BacktraceError::Unterminated)?;
            len += WORD;
            if u32::from_be_bytes(word) & FINAL != 0 {
                let mut bytes = [0; MAX_HOPS * WORD];
                message.copy_to_slice(bytes.get_mut(..len).unwrap_or_default());
                return Ok(Self {
                    bytes,
                    len: len as u8,
                });
            }
        }
        Err(if len == MAX_HOPS * WORD {
            BacktraceError::TooManyHops
        } else {
            BacktraceError::Unterminated
        })
    }

    /// The request id: the last word, without the bit that marks it. A request that is sent again keeps it.
    pub fn id(&self) -> u32 {
        let last = self.as_bytes().last_chunk().copied().unwrap_or_default();
        u32::from_be_bytes(last) & !FINAL
    }

    /// The words as they go over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(bytes: &[u8]) -> Result<(Backtrace, Bytes), BacktraceError> {
        let mut message = Bytes::copy_from_slice(bytes);
        Backtrace::split_off(&mut message).map(|backtrace| (backtrace, message))
    }

    #[test]
    fn words_end_at_the_request_id() {
        let (backtrace, body) = split(&[0, 0, 0, 7, 0x80, 0, 0, 1, b'x']).unwrap();
        assert_eq!(backtrace.as_bytes(), [0, 0, 0, 7, 0x80, 0, 0, 1]);
        assert_eq!(&body[..], b"x");
    }

    #[test]
    fn eight_words_pass_and_nine_do_not() {
        let stack = |words: usize| {
            let mut stack = vec![0; WORD * (words - 1)];
            stack.extend_from_slice(&FINAL.to_be_bytes());
            stack
        };
        assert_eq!(split(&stack(8)).unwrap().0.as_bytes(), stack(8));
        assert_eq!(split(&stack(9)), Err(BacktraceError::TooManyHops));
    }

    #[test]
    fn an_end_without_a_request_id_is_malformed() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0x80, 0, 0],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1, 0x80],
        ] {
            assert_eq!(split(bytes), Err(BacktraceError::Unterminated), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((backtrace, body)) = split(&bytes) {
                prop_assert_eq!([backtrace.as_bytes(), &body].concat(), bytes);
            }
        }

        #[test]
        fn every_legal_stack_comes_back(
            words in proptest::collection::vec(0..FINAL, 0..MAX_HOPS),
            id: u32,
            body: Vec<u8>,
        ) {
            let last = id | FINAL;
            let mut bytes: Vec<u8> = words.iter().chain([&last]).flat_map(|word| word.to_be_bytes()).collect();
            let stack = bytes.clone();
            bytes.extend_from_slice(&body);
            let (backtrace, rest) = split(&bytes).unwrap();
            prop_assert_eq!(backtrace.as_bytes(), stack);
            prop_assert_eq!(&rest[..], body);
        }
    }
}
