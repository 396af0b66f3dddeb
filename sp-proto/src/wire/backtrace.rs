//! The backtrace: the stack of words in front of a request, which its reply carries home.

use bytes::{Buf, Bytes};

/// The most words that a backtrace may have by default, the request id included: the TTL that nng and mangos
/// use.
pub const DEFAULT_TTL: u8 = 8;

/// Backtraces up to this many words are kept in place; longer ones are shared with the message that brought
/// them.
const INLINE: usize = 8;

/// The bit that marks the last word of a backtrace.
pub const FINAL: u32 = 0x8000_0000;

const WORD: usize = size_of::<u32>();

/// The words in front of a request, kept as they came, to be put in front of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backtrace(Words);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Words {
    Inline { bytes: [u8; INLINE * WORD], len: u8 },
    Shared(Bytes),
}

/// Why a request has no usable backtrace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BacktraceError {
    /// The message ends before a word with the top bit set: its sender is broken.
    #[error("malformed backtrace: the message ends without a request id")]
    Unterminated,
    /// More words than the TTL allows: the message went in circles; its sender is not to blame.
    #[error("the backtrace has too many hops")]
    TooManyHops,
}

impl Backtrace {
    /// Takes the backtrace off the front of `message`; what remains is the payload. `ttl` is the most words
    /// that it may have, the request id included; 0 counts as 1.
    ///
    /// # Errors
    /// The stack is not terminated, or too deep. `message` is then of no use.
    pub fn split_off(message: &mut Bytes, ttl: u8) -> Result<Self, BacktraceError> {
        let ttl = usize::from(ttl.max(1));
        let mut words = 0;
        for word in message.chunks(WORD).take(ttl) {
            let word: [u8; WORD] = word.try_into().map_err(|_| BacktraceError::Unterminated)?;
            words += 1;
            if u32::from_be_bytes(word) & FINAL != 0 {
                return Ok(Self(Words::take(message, words * WORD)));
            }
        }
        Err(if words == ttl {
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
        match &self.0 {
            Words::Inline { bytes, len } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Words::Shared(bytes) => bytes,
        }
    }
}

impl Words {
    fn take(message: &mut Bytes, len: usize) -> Self {
        let mut bytes = [0; INLINE * WORD];
        match bytes.get_mut(..len) {
            Some(room) => {
                message.copy_to_slice(room);
                Self::Inline {
                    bytes,
                    len: len as u8,
                }
            }
            None => Self::Shared(message.split_to(len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(bytes: &[u8]) -> Result<(Backtrace, Bytes), BacktraceError> {
        let mut message = Bytes::copy_from_slice(bytes);
        Backtrace::split_off(&mut message, DEFAULT_TTL).map(|backtrace| (backtrace, message))
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
        for (words, ttl) in [(1, 0), (1, 1), (9, 9), (200, 255), (255, 255)] {
            let mut message = Bytes::from([stack(words), b"x".to_vec()].concat());
            let backtrace = Backtrace::split_off(&mut message, ttl).unwrap();
            assert_eq!(
                (backtrace.as_bytes(), &message[..]),
                (&stack(words)[..], &b"x"[..])
            );
            assert_eq!(backtrace.id(), 0);
        }
        let mut message = Bytes::from(stack(2));
        assert_eq!(
            Backtrace::split_off(&mut message, 1),
            Err(BacktraceError::TooManyHops)
        );
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
            words in proptest::collection::vec(0..FINAL, 0..usize::from(DEFAULT_TTL)),
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
