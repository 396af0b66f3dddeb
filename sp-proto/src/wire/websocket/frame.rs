//! Frames: how a message and the small talk beside it go over an upgraded connection.

use crate::wire::FrameError;
use bytes::Bytes;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The longest payload of a control frame, in bytes.
const CONTROL_MAX: usize = 125;

/// The longest header: two bytes, a length of eight, a mask of four.
const HEADER_MAX: usize = 14;

/// What a peer's word alone can make us allocate, in bytes; beyond it the buffer grows as bytes arrive.
const EAGER: usize = 1024 * 1024;

/// Which end of a connection we are. What a client sends is masked, what a server sends is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that dialed.
    Client,
    /// The end that listens.
    Server,
}

/// A frame that holds no part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Nothing follows.
    Close,
    /// Wants a pong with the same payload.
    Ping,
    /// Answers a ping.
    Pong,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A part of a message.
    Data {
        /// Does the message begin with it?
        first: bool,
        /// Does the message end with it?
        last: bool,
    },
    /// No part of a message.
    Control(Control),
}

/// Why the bytes of a peer are no websocket frames, or none that SP allows. The connection is of no use after
/// that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// The message is longer than this end accepts.
    #[error(transparent)]
    TooLong(#[from] FrameError),
    /// Bits that only an extension sets, and none was agreed on.
    #[error("a websocket frame has reserved bits set")]
    Reserved,
    /// SP messages are binary; a text has no place here, and there are no other kinds.
    #[error("a websocket frame has the opcode {0:#x}; expected a binary message")]
    Opcode(u8),
    /// Clients mask their frames and servers don't.
    #[error("a websocket frame is {}, contrary to its sender's role", if *.masked { "masked" } else { "not masked" })]
    Mask {
        /// What the frame is.
        masked: bool,
    },
    /// A message began before the last part of the one before it, or went on without having begun.
    #[error("a websocket frame is out of sequence")]
    Sequence,
    /// A ping, pong or close that is in parts or longer than 125 bytes.
    #[error("a websocket control frame is in parts or too long")]
    Control,
}

/// Turns the bytes of an upgraded connection into messages, however they are split. A message may come in
/// many frames. Of several pings only the newest is kept: it is the only one that must be answered.
#[derive(Debug)]
pub struct WebSocketDecoder {
    role: Role,
    header: [u8; HEADER_MAX],
    filled: usize,
    frame: Option<Frame>,
    /// The parts of a message that have come, unmasked; `None` between messages.
    message: Option<Vec<u8>>,
    control: Vec<u8>,
    ping: Option<Bytes>,
    closed: bool,
}

/// The frame whose payload is expected.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: FrameKind,
    missing: usize,
    key: [u8; 4],
    /// Where in the key the next byte is.
    phase: usize,
}

impl WebSocketDecoder {
    /// A decoder for what is sent to an end with this role.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            header: [0; HEADER_MAX],
            filled: 0,
            frame: None,
            message: None,
            control: Vec::new(),
            ping: None,
            closed: false,
        }
    }

    /// Takes `input`, the next bytes of the stream, and adds the messages that are now complete to `messages`.
    /// `limit` is the longest message accepted, in bytes, 0 = no limit. What follows a close is ignored.
    ///
    /// # Errors
    /// The peer broke the rules or announced a message beyond the limit. Messages before that are in
    /// `messages`.
    pub fn decode(
        &mut self,
        mut input: &[u8],
        limit: usize,
        messages: &mut Vec<Bytes>,
    ) -> Result<(), WebSocketError> {
        while !self.closed {
            let Some(frame) = &mut self.frame else {
                if input.is_empty() {
                    break;
                }
                self.take_header(&mut input, limit)?;
                continue;
            };
            let (part, rest) = input.split_at_checked(frame.missing).unwrap_or((input, &[]));
            input = rest;
            let payload = match frame.kind {
                FrameKind::Data { .. } => self.message.get_or_insert_default(),
                FrameKind::Control(_) => &mut self.control,
            };
            let start = payload.len();
            reserve(payload, frame.missing, part.len());
            payload.extend_from_slice(part);
            if self.role == Role::Server {
                mask(
                    payload.get_mut(start..).unwrap_or_default(),
                    frame.key,
                    frame.phase,
                );
            }
            frame.phase = (frame.phase + part.len()) % 4;
            frame.missing -= part.len();
            if frame.missing > 0 {
                break;
            }
            let kind = frame.kind;
            self.frame = None;
            match kind {
                FrameKind::Data { last: false, .. } => {}
                FrameKind::Data { last: true, .. } => {
                    messages.push(self.message.take().unwrap_or_default().into());
                }
                FrameKind::Control(Control::Ping) => {
                    self.ping = Some(std::mem::take(&mut self.control).into());
                }
                FrameKind::Control(Control::Pong) => self.control.clear(),
                FrameKind::Control(Control::Close) => self.closed = true,
            }
        }
        Ok(())
    }

    /// The payload of the newest ping that is not yet answered.
    pub fn take_ping(&mut self) -> Option<Bytes> {
        self.ping.take()
    }

    /// Has the peer said goodbye?
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Is the stream between two messages?
    pub fn is_between_messages(&self) -> bool {
        self.filled == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Takes header bytes off `input`; once they are complete the frame is expected.
    fn take_header(&mut self, input: &mut &[u8], limit: usize) -> Result<(), WebSocketError> {
        let wanted = self.header_len();
        let (part, rest) = input
            .split_at_checked(wanted - self.filled)
            .unwrap_or((*input, &[]));
        if let Some(room) = self.header.get_mut(self.filled..self.filled + part.len()) {
            room.copy_from_slice(part);
        }
        self.filled += part.len();
        *input = rest;
        if self.filled < 2 {
            return Ok(());
        }
        // A wrong beginning is refused at once, without waiting for a length that may never come.
        let [first, second, ..] = self.header;
        let kind = self.kind(first, second)?;
        if self.filled < self.header_len() {
            return Ok(());
        }
        let (length, key) = self.length_and_key();
        self.filled = 0;
        let length = match kind {
            FrameKind::Control(_) => usize::from(second & !MASKED),
            FrameKind::Data { .. } => self.accepted(length, limit)?,
        };
        self.frame = Some(Frame {
            kind,
            missing: length,
            key,
            phase: 0,
        });
        Ok(())
    }

    /// How long the header is, as far as its bytes so far tell.
    fn header_len(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let [_, second, ..] = self.header;
        let length = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    fn kind(&self, first: u8, second: u8) -> Result<FrameKind, WebSocketError> {
        if first & 0x70 != 0 {
            return Err(WebSocketError::Reserved);
        }
        let masked = second & MASKED != 0;
        if masked != (self.role == Role::Server) {
            return Err(WebSocketError::Mask { masked });
        }
        let last = first & FIN != 0;
        let control = match (first & 0x0f, self.message.is_some()) {
            (CONTINUATION, true) => return Ok(FrameKind::Data { first: false, last }),
            (BINARY, false) => return Ok(FrameKind::Data { first: true, last }),
            (CONTINUATION, false) | (BINARY, true) => return Err(WebSocketError::Sequence),
            (CLOSE, _) => Control::Close,
            (PING, _) => Control::Ping,
            (PONG, _) => Control::Pong,
            (opcode, _) => return Err(WebSocketError::Opcode(opcode)),
        };
        if !last || usize::from(second & !MASKED) > CONTROL_MAX {
            return Err(WebSocketError::Control);
        }
        Ok(FrameKind::Control(control))
    }

    fn length_and_key(&self) -> (u64, [u8; 4]) {
        let [_, second, a, b, c, d, e, f, g, h, i, j, k, l] = self.header;
        match second & !MASKED {
            126 => (u64::from(u16::from_be_bytes([a, b])), [c, d, e, f]),
            127 => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), [i, j, k, l]),
            length => (u64::from(length), [a, b, c, d]),
        }
    }

    /// The length of a data frame, if the message that it belongs to stays within the limit.
    fn accepted(&self, length: u64, limit: usize) -> Result<usize, WebSocketError> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let whole = length.saturating_add(self.message.as_ref().map_or(0, Vec::len) as u64);
        match (usize::try_from(length), isize::try_from(whole)) {
            (Ok(length), Ok(whole)) if whole.cast_unsigned() <= limit => Ok(length),
            _ => Err(FrameError::TooLong { length: whole, limit }.into()),
        }
    }
}

/// Makes room for `more` of the `missing` bytes of a payload: at once up to [`EAGER`] bytes, beyond that in step
/// with what really arrives.
fn reserve(payload: &mut Vec<u8>, missing: usize, more: usize) {
    if payload.capacity() - payload.len() < more {
        payload.reserve_exact(missing.min(payload.len().max(EAGER).max(more)));
    }
}

/// Adds the header of a frame with a payload of `length` bytes to `buffer`; `key` is what a client masks it
/// with.
pub fn encode_header(buffer: &mut Vec<u8>, kind: FrameKind, length: usize, key: Option<[u8; 4]>) {
    let (opcode, last) = match kind {
        FrameKind::Data { first: true, last } => (BINARY, last),
        FrameKind::Data { first: false, last } => (CONTINUATION, last),
        FrameKind::Control(Control::Close) => (CLOSE, true),
        FrameKind::Control(Control::Ping) => (PING, true),
        FrameKind::Control(Control::Pong) => (PONG, true),
    };
    let masked = if key.is_some() { MASKED } else { 0 };
    buffer.push(opcode | if last { FIN } else { 0 });
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => buffer.push(masked | length),
        (_, Ok(length)) => {
            buffer.push(masked | 126);
            buffer.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            buffer.push(masked | 127);
            buffer.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    buffer.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
}

/// Masks or unmasks `bytes`, the first of which stands at `phase` (modulo 4) of the payload.
pub fn mask(bytes: &mut [u8], mut key: [u8; 4], phase: usize) {
    key.rotate_left(phase % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = chunk.try_into().map_or(0, u64::from_ne_bytes);
        chunk.copy_from_slice(&(word ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with any first byte, masked when a client sends it.
    fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let whole = FrameKind::Data {
            first: true,
            last: true,
        };
        encode_header(&mut bytes, whole, payload.len(), key);
        bytes[0] = first;
        let start = bytes.len();
        bytes.extend_from_slice(payload);
        if let Some(key) = key {
            mask(&mut bytes[start..], key, 0);
        }
        bytes
    }

    fn decode(role: Role, limit: usize, bytes: &[u8]) -> Result<Vec<Bytes>, WebSocketError> {
        let mut messages = Vec::new();
        WebSocketDecoder::new(role).decode(bytes, limit, &mut messages)?;
        Ok(messages)
    }

    #[test]
    fn frames_are_those_of_the_rfc() {
        // RFC 6455, section 5.7: "Hello", there as text.
        let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode(Role::Server, 0, &masked), Ok(vec!["Hello".into()]));
        assert_eq!(frame(0x82, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])), masked);
        assert_eq!(
            decode(Role::Client, 0, b"\x82\x05Hello"),
            Ok(vec!["Hello".into()])
        );
        assert_eq!(frame(0x82, &[0; 256], None)[..4], [0x82, 0x7e, 1, 0]);
        assert_eq!(
            frame(0x82, &[0; 65536], None)[..10],
            [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn small_talk_comes_between_the_parts_of_a_message() {
        let bytes = [
            frame(0x02, b"Hel", None),
            frame(0x89, b"old", None),
            frame(0x89, b"new", None),
            frame(0x8a, b"?", None),
            frame(0x00, b"", None),
            frame(0x80, b"lo", None),
            frame(0x82, b"", None),
            frame(0x88, &[3, 232], None),
            b"after the close".to_vec(),
        ];
        let (mut decoder, mut messages) = (WebSocketDecoder::new(Role::Client), Vec::new());
        for byte in bytes.concat() {
            decoder.decode(&[byte], 5, &mut messages).unwrap();
        }
        assert_eq!(messages, [Bytes::from("Hello"), Bytes::new()]);
        assert_eq!(decoder.take_ping(), Some("new".into()));
        assert_eq!(decoder.take_ping(), None);
        assert!(decoder.is_closed());
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let refused = |role, bytes: &[u8]| decode(role, 100, bytes).unwrap_err();
        assert_eq!(refused(Role::Client, &[0xc2, 0]), WebSocketError::Reserved);
        assert_eq!(refused(Role::Client, &[0x81, 0]), WebSocketError::Opcode(1));
        assert_eq!(refused(Role::Client, &[0x83, 0]), WebSocketError::Opcode(3));
        assert_eq!(
            refused(Role::Client, &[0x82, 0x80]),
            WebSocketError::Mask { masked: true }
        );
        assert_eq!(
            refused(Role::Server, &[0x82, 0]),
            WebSocketError::Mask { masked: false }
        );
        assert_eq!(refused(Role::Client, &[0x80, 0]), WebSocketError::Sequence);
        assert_eq!(refused(Role::Client, &[2, 0, 2, 0]), WebSocketError::Sequence);
        assert_eq!(refused(Role::Client, &[9, 0]), WebSocketError::Control);
        assert_eq!(refused(Role::Client, &[0x89, 126]), WebSocketError::Control);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        for (limit, length) in [(100, 101), (100, 1 << 62), (0, 1 << 63), (0, u64::MAX)] {
            let header = [&[0x82, 127][..], &length.to_be_bytes()].concat();
            let error = decode(Role::Client, limit, &header).unwrap_err();
            assert!(matches!(error, WebSocketError::TooLong(_)), "{error:?}");
        }
        let parts = [frame(0x02, &[0; 60], None), frame(0x80, &[0; 41], None)].concat();
        let error = decode(Role::Client, 100, &parts).unwrap_err();
        let whole = FrameError::TooLong {
            length: 101,
            limit: 100,
        };
        assert_eq!(error, WebSocketError::TooLong(whole));
        let mut decoder = WebSocketDecoder::new(Role::Client);
        let claim = [&[0x82, 127][..], &(1_u64 << 62).to_be_bytes(), b"x"].concat();
        decoder.decode(&claim, 0, &mut Vec::new()).unwrap();
        assert!(
            decoder.message.unwrap().capacity() <= EAGER,
            "a claim alone allocates little"
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in proptest::collection::vec(1..50_usize, 1..20),
            key: [u8; 4],
            client: bool,
        ) {
            let (role, key) = if client { (Role::Client, None) } else { (Role::Server, Some(key)) };
            let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(0x82, message, key)).collect();
            let (mut decoder, mut decoded) = (WebSocketDecoder::new(role), Vec::new());
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                decoder.decode(part, 0, &mut decoded).unwrap();
                rest = after;
            }
            prop_assert!(decoder.is_between_messages());
            prop_assert_eq!(decoded, messages);
        }

        #[test]
        fn masking_in_parts_is_masking_as_a_whole(bytes: Vec<u8>, key: [u8; 4], at: usize) {
            let at = at % (bytes.len() + 1);
            let plain: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let mut masked = bytes;
            mask(&mut masked[..at], key, 0);
            mask(&mut masked[at..], key, at);
            prop_assert_eq!(masked, plain);
        }
    }
}
