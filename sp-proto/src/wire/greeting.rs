//! The greeting: the 8 bytes that each side sends when a connection opens.

use crate::Protocol;

/// Length of a greeting, in bytes.
pub const GREETING_LEN: usize = 8;

/// Why a connection's first bytes were not a greeting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// Some other protocol is spoken there.
    #[error("the peer does not speak SP: its first bytes are {:?}", String::from_utf8_lossy(.0))]
    NotSp([u8; GREETING_LEN]),
    /// The reserved field is not zero.
    #[error("the reserved field of the greeting is {0:#06x}, expected zero")]
    Reserved(u16),
    /// A number that no protocol has.
    #[error("unknown protocol number {0:#06x}")]
    UnknownProtocol(u16),
}

/// The greeting of a socket that speaks `protocol`.
pub const fn encode_greeting(protocol: Protocol) -> [u8; GREETING_LEN] {
    let [high, low] = protocol.number().to_be_bytes();
    [0, b'S', b'P', 0, high, low, 0, 0]
}

/// The protocol that a greeting announces.
///
/// # Errors
/// The bytes are no greeting, or one of a protocol that does not exist.
pub fn decode_greeting(greeting: [u8; GREETING_LEN]) -> Result<Protocol, GreetingError> {
    let [0, b'S', b'P', 0, high, low, reserved_high, reserved_low] = greeting else {
        return Err(GreetingError::NotSp(greeting));
    };
    let reserved = u16::from_be_bytes([reserved_high, reserved_low]);
    if reserved != 0 {
        return Err(GreetingError::Reserved(reserved));
    }
    let number = u16::from_be_bytes([high, low]);
    Protocol::from_number(number).ok_or(GreetingError::UnknownProtocol(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_greeting_is_byte_exact() {
        assert_eq!(encode_greeting(Protocol::Push), [0, 0x53, 0x50, 0, 0, 0x50, 0, 0]);
        assert_eq!(
            decode_greeting([0, 0x53, 0x50, 0, 0, 0x31, 0, 0]),
            Ok(Protocol::Rep)
        );
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(
            decode_greeting(*b"GET / HT"),
            Err(GreetingError::NotSp(*b"GET / HT"))
        );
        assert!(decode_greeting([0, b'S', b'P', 1, 0, 0x50, 0, 0]).is_err());
        assert_eq!(
            decode_greeting([0, b'S', b'P', 0, 0, 0x50, 0, 1]),
            Err(GreetingError::Reserved(1))
        );
        assert_eq!(
            decode_greeting([0, b'S', b'P', 0, 9, 9, 0, 0]),
            Err(GreetingError::UnknownProtocol(0x0909))
        );
    }

    proptest! {
        #[test]
        fn only_what_is_encoded_is_decoded(bytes: [u8; GREETING_LEN]) {
            if let Ok(protocol) = decode_greeting(bytes) {
                prop_assert_eq!(encode_greeting(protocol), bytes);
            }
        }
    }
}
