//! Owns the message: the unit that sockets send and receive.

use bytes::{Bytes, BytesMut};
use std::ops::Deref;

/// One SP message: a payload of any length, zero included.
///
/// Cloning is cheap (the payload is shared) and it dereferences to its bytes. It is made from what owns its bytes
/// or has them for ever, without a copy; of a slice that is neither, [`Bytes::copy_from_slice`] makes one.
///
/// ```
/// use sp_proto::{Bytes, Message};
/// let message = Message::from("hello");
/// assert_eq!(&message[..], b"hello");
/// let part: Bytes = message.into_bytes().slice(1..);
/// assert_eq!(Message::from(part), Message::from(b"ello"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Message {
    body: Bytes,
}

impl Message {
    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.body
    }

    /// The payload, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.body
    }
}

/// A message of a [`Raw`](crate::Raw) socket, with the protocol header that other sockets keep to themselves.
/// What the header holds is told there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawMessage {
    /// The words that the protocol puts in front of the payload, each of 32 bits, big-endian.
    pub header: Bytes,
    /// The payload.
    pub body: Message,
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl From<Bytes> for Message {
    fn from(body: Bytes) -> Self {
        Self { body }
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Self {
        message.body
    }
}

impl From<BytesMut> for Message {
    fn from(body: BytesMut) -> Self {
        Self { body: body.into() }
    }
}

impl From<Vec<u8>> for Message {
    fn from(body: Vec<u8>) -> Self {
        Self { body: body.into() }
    }
}

impl From<String> for Message {
    fn from(body: String) -> Self {
        Self { body: body.into() }
    }
}

impl From<&'static str> for Message {
    fn from(body: &'static str) -> Self {
        Self { body: body.into() }
    }
}

impl From<&'static [u8]> for Message {
    fn from(body: &'static [u8]) -> Self {
        Self { body: body.into() }
    }
}

impl<const LENGTH: usize> From<&'static [u8; LENGTH]> for Message {
    fn from(body: &'static [u8; LENGTH]) -> Self {
        Self::from(body.as_slice())
    }
}
