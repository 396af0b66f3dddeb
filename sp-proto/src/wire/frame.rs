//! The decoder: bytes as they come in → frames.

use crate::wire::Spares;
use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

/// Payloads up to this many bytes share allocations when many arrive in one read.
const SMALL: usize = 2 * 1024;

/// The longest such shared allocation, headers included: what a single kept message can pin at most.
const SHARED: usize = 4 * 1024;

/// Payloads from this many bytes up can be slices of the read buffer that brought them.
const SLICE: usize = 16 * 1024;

/// What a peer's word alone can make us allocate, in bytes; beyond it the buffer grows as bytes arrive.
const EAGER: usize = 1024 * 1024;

const LENGTH: usize = size_of::<u64>();

/// How messages are told apart on a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A length, then the payload.
    Tcp,
    /// The byte 1, a length, then the payload.
    Ipc,
    /// No framing: the message itself is handed over.
    Inproc,
}

impl Framing {
    /// The first byte of every ipc frame.
    pub(super) const IPC_MESSAGE: u8 = 1;

    const fn header_len(self) -> usize {
        match self {
            Self::Tcp => LENGTH,
            Self::Ipc => 1 + LENGTH,
            Self::Inproc => 0,
        }
    }

    /// The length of the header and the payload of the frame at the front of `input`, if it is whole, valid and
    /// has at most `limit` bytes.
    #[inline]
    fn split_frame(self, input: &[u8], limit: usize) -> Option<(usize, &[u8])> {
        let (header, length, rest) = match self {
            Self::Tcp => {
                let (length, rest) = input.split_first_chunk()?;
                (LENGTH, length, rest)
            }
            Self::Ipc => {
                let (kind, rest) = input.split_first()?;
                let (length, rest) = rest.split_first_chunk().filter(|_| *kind == Self::IPC_MESSAGE)?;
                (1 + LENGTH, length, rest)
            }
            Self::Inproc => return None,
        };
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let payload = rest.get(..length).filter(|_| length <= limit)?;
        Some((header, payload))
    }
}

/// Why the bytes of a peer are no frames. The connection is of no use after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// An ipc frame that is no message.
    #[error("unknown ipc frame type {0:#04x}, expected 0x01")]
    UnknownType(u8),
    /// The frame is longer than this end accepts.
    #[error("a message of {length} bytes was announced; at most {limit} are accepted")]
    TooLong {
        /// The announced length, in bytes.
        length: u64,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
}

/// Turns the bytes of one connection into frames, however they are split.
///
/// ```text
///   Head ──length known, payload incomplete──▶ Body
///    ▲ └──payload complete in the input──┐      │
///    └───────────────frame───────────────┴──────┘
/// ```
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    limit: usize,
    state: State,
    spares: Spares,
    /// Did the last payload have at least [`SLICE`] bytes?
    large: bool,
}

#[derive(Debug)]
enum State {
    /// The first bytes of a frame's header.
    Head { bytes: [u8; 1 + LENGTH], filled: usize },
    /// The first bytes of a payload of `length` bytes.
    Body { body: Vec<u8>, length: usize },
}

const EMPTY: State = State::Head {
    bytes: [0; 1 + LENGTH],
    filled: 0,
};

impl Decoder {
    /// A decoder at the start of a stream; `limit` is the longest frame accepted, in bytes, 0 = no limit.
    pub fn new(framing: Framing, limit: usize) -> Self {
        Self {
            framing,
            limit: if limit == 0 { usize::MAX } else { limit },
            state: EMPTY,
            spares: Spares::default(),
            large: false,
        }
    }

    /// Exchanges the spares into which large payloads are received, so that many decoders can share them.
    pub fn swap_spares(&mut self, spares: &mut Spares) {
        std::mem::swap(&mut self.spares, spares);
    }

    /// Takes `input`, the next bytes of the stream, and adds the frames that are now complete to `frames`.
    ///
    /// # Errors
    /// The peer broke the framing or announced a frame beyond the limit. Frames before that are in `frames`.
    pub fn decode(&mut self, input: &[u8], frames: &mut Vec<Bytes>) -> Result<(), FrameError> {
        self.decode_all(input, None, frames)
    }

    /// The same, but payloads of at least 16 KiB that are whole in `input` are slices of it, and no copies. Worth
    /// while when [large payloads are expected](Decoder::expects_large).
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_shared(&mut self, input: &Bytes, frames: &mut Vec<Bytes>) -> Result<(), FrameError> {
        self.decode_all(input, Some(input), frames)
    }

    /// Exchanges `buffer` for a spare one of the same length, so that frames can be slices of it; it will be a
    /// spare itself once they are dropped.
    pub fn lend(&mut self, buffer: &mut BytesMut) -> Bytes {
        let spare = self.spares.take_buffer(buffer.len());
        let lent = std::mem::replace(buffer, spare).freeze();
        self.spares.keep(&lent);
        lent
    }

    /// Did the last payload have at least 16 KiB?
    pub fn expects_large(&self) -> bool {
        self.large
    }

    fn decode_all(
        &mut self,
        mut input: &[u8],
        shared: Option<&Bytes>,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), FrameError> {
        while !input.is_empty() {
            if let State::Body { body, length } = &mut self.state {
                let missing = *length - body.len();
                let (part, rest) = input.split_at_checked(missing).unwrap_or((input, &[]));
                reserve(body, *length, part.len());
                body.extend_from_slice(part);
                input = rest;
                self.finish(frames);
                continue;
            }
            if self.take_run(&mut input, frames) {
                continue;
            }
            let Some(length) = self.take_length(&mut input)? else {
                break;
            };
            self.large = length >= SLICE;
            let Some((payload, rest)) = input.split_at_checked(length) else {
                let mut body = self.spares.take(length).unwrap_or_default();
                reserve(&mut body, length, input.len());
                body.extend_from_slice(input);
                self.state = State::Body { body, length };
                break;
            };
            frames.push(match shared {
                Some(shared) if self.large => shared.slice_ref(payload),
                _ => Bytes::copy_from_slice(payload),
            });
            input = rest;
        }
        Ok(())
    }

    /// Takes a run of small frames off `input`, copied at once into one allocation that they share. So a flood
    /// costs few allocations, and yet a message that is kept for long never pins more than [`SHARED`] bytes.
    /// Says whether there was one; a single frame is none.
    fn take_run(&mut self, input: &mut &[u8], frames: &mut Vec<Bytes>) -> bool {
        if !self.is_between_frames() {
            return false;
        }
        let limit = self.limit.min(SMALL);
        let (mut run, mut end) = (0, 0);
        let mut rest = *input;
        while let Some((header, payload)) = self.framing.split_frame(rest, limit)
            && end + header + payload.len() <= SHARED
        {
            run += 1;
            end += header + payload.len();
            rest = input.get(end..).unwrap_or_default();
        }
        if run < 2 {
            return false;
        }
        let (shared, rest) = input.split_at_checked(end).unwrap_or((*input, &[]));
        let shared = Bytes::copy_from_slice(shared);
        let mut at = 0;
        frames.extend((0..run).map_while(|_| {
            let (header, payload) = self.framing.split_frame(shared.get(at..)?, limit)?;
            let from = at + header;
            at = from + payload.len();
            Some(shared.slice(from..at))
        }));
        *input = rest;
        self.large = false;
        true
    }

    /// How many bytes of the payload that is being received are missing; 0 between payloads.
    pub fn missing(&self) -> usize {
        match &self.state {
            State::Head { .. } => 0,
            State::Body { body, length } => length - body.len(),
        }
    }

    /// The payload that is being received, to read into without a copy; call [`Decoder::finish`] afterwards.
    pub fn body(&mut self) -> Option<Limit<&mut Vec<u8>>> {
        match &mut self.state {
            State::Head { .. } => None,
            State::Body { body, length } => {
                let missing = *length - body.len();
                reserve(body, *length, 1);
                let room = body.capacity() - body.len();
                Some(body.limit(missing.min(room)))
            }
        }
    }

    /// Adds the payload that is being received to `frames` if it is complete.
    pub fn finish(&mut self, frames: &mut Vec<Bytes>) {
        if let State::Body { body, length } = &mut self.state
            && body.len() == *length
        {
            let body = Bytes::from(std::mem::take(body));
            self.spares.keep(&body);
            frames.push(body);
            self.state = EMPTY;
        }
    }

    /// Is the stream between two frames?
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Head { filled: 0, .. })
    }

    /// Takes a header off `input` and gives its length; `None` when it is not complete yet.
    fn take_length(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        let State::Head { bytes, filled } = &mut self.state else {
            return Ok(None);
        };
        let wanted = self.framing.header_len();
        let (part, rest) = input.split_at_checked(wanted - *filled).unwrap_or((*input, &[]));
        if let Some(room) = bytes.get_mut(*filled..*filled + part.len()) {
            room.copy_from_slice(part);
        }
        *filled += part.len();
        *input = rest;
        // A wrong type is refused at once, without waiting for a length that may never come.
        let [kind, .., _] = *bytes;
        if self.framing == Framing::Ipc && kind != Framing::IPC_MESSAGE {
            return Err(FrameError::UnknownType(kind));
        }
        if *filled < wanted {
            return Ok(None);
        }
        let length = match (self.framing, *bytes) {
            (Framing::Ipc, [_, a, b, c, d, e, f, g, h]) | (_, [a, b, c, d, e, f, g, h, _]) => {
                u64::from_be_bytes([a, b, c, d, e, f, g, h])
            }
        };
        *filled = 0;
        match usize::try_from(length) {
            Ok(length) if length <= self.limit && isize::try_from(length).is_ok() => Ok(Some(length)),
            _ => Err(FrameError::TooLong {
                length,
                limit: self.limit,
            }),
        }
    }
}

/// Makes room for `more` bytes of a payload of `length` bytes: at once up to [`EAGER`] bytes, beyond that in
/// step with what really arrives.
fn reserve(body: &mut Vec<u8>, length: usize, more: usize) {
    if body.capacity() - body.len() < more {
        let step = (length - body.len()).min(body.len().max(EAGER).max(more));
        body.reserve_exact(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Batch;
    use proptest::prelude::*;
    use std::io::IoSlice;

    const STREAMS: [Framing; 2] = [Framing::Tcp, Framing::Ipc];

    fn encode(framing: Framing, messages: &[Vec<u8>]) -> Vec<u8> {
        let mut batch = Batch::new(framing);
        messages
            .iter()
            .for_each(|message| batch.push(&[], message.clone().into()));
        drain(&mut batch, usize::MAX)
    }

    /// Writes the batch out, at most `most` bytes at a time.
    fn drain(batch: &mut Batch, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let used = batch.io_slices(&mut slices);
            let step: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .take(most)
                .collect();
            batch.advance(step.len());
            bytes.extend(step);
        }
        bytes
    }

    /// How a decoder gets its input: copied, unless otherwise said.
    #[derive(Clone, Copy, Debug, Default)]
    struct Way {
        shared: bool,
        straight: bool,
    }

    fn ways() -> impl Strategy<Value = Way> {
        any::<[bool; 2]>().prop_map(|[shared, straight]| Way { shared, straight })
    }

    /// Decodes `stream`, `part` bytes at a time, up to an error.
    fn decode(
        decoder: &mut Decoder,
        way: Way,
        mut stream: &[u8],
        part: usize,
    ) -> (Vec<Bytes>, Result<(), FrameError>) {
        let mut frames = Vec::new();
        let mut buffer = BytesMut::zeroed(part);
        while !stream.is_empty() {
            if way.straight
                && let Some(mut body) = decoder.body()
            {
                let (now, later) = stream.split_at(part.min(body.remaining_mut()).min(stream.len()));
                assert!(!now.is_empty(), "a payload that is complete is a frame");
                body.put_slice(now);
                stream = later;
                decoder.finish(&mut frames);
                continue;
            }
            let (now, later) = stream.split_at(part.min(stream.len()));
            stream = later;
            let done = if way.shared {
                buffer[..now.len()].copy_from_slice(now);
                let lent = decoder.lend(&mut buffer);
                decoder.decode_shared(&lent.slice(..now.len()), &mut frames)
            } else {
                decoder.decode(now, &mut frames)
            };
            if done.is_err() {
                return (frames, done);
            }
        }
        (frames, Ok(()))
    }

    /// What a hostile peer sends: anything at all, and frames of any length that may be announced wrong.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0_u8), Just(1), any::<u8>()];
        let frame = (any::<bool>(), 0..70_000_u64, -1..=1_i64).prop_map(|(ipc, length, wrong)| {
            let mut bytes = if ipc {
                vec![Framing::IPC_MESSAGE]
            } else {
                Vec::new()
            };
            bytes.extend_from_slice(&length.saturating_add_signed(wrong).to_be_bytes());
            bytes.extend((0..length).map(|at| at as u8));
            bytes
        });
        let piece = prop_oneof![proptest::collection::vec(byte, 0..200), frame];
        proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
    }

    fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let size = prop_oneof![
            0..80_usize,
            2040..2060_usize,
            4090..4110_usize,
            9000..9010_usize,
            16_380..16_390_usize
        ];
        let message =
            (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|at| at as u8 ^ seed).collect());
        proptest::collection::vec(message, 0..12)
    }

    #[test]
    fn frames_are_byte_exact() {
        assert_eq!(encode(Framing::Tcp, &[b"abc".to_vec()]), b"\0\0\0\0\0\0\0\x03abc");
        assert_eq!(
            encode(Framing::Ipc, &[b"abc".to_vec()]),
            b"\x01\0\0\0\0\0\0\0\x03abc"
        );
        let mut batch = Batch::new(Framing::Tcp);
        batch.push(&[0x80, 0, 0, 1], Bytes::from_static(b"x"));
        assert_eq!(drain(&mut batch, usize::MAX), b"\0\0\0\0\0\0\0\x05\x80\0\0\x01x");
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        for (framing, header) in [(Framing::Tcp, &[][..]), (Framing::Ipc, &[1][..])] {
            for length in [101, 1 << 62, 1 << 63, u64::MAX] {
                let mut decoder = Decoder::new(framing, 100);
                let result = decoder.decode(&[header, &length.to_be_bytes()].concat(), &mut Vec::new());
                assert_eq!(result, Err(FrameError::TooLong { length, limit: 100 }));
            }
            let mut decoder = Decoder::new(framing, 0);
            let result = decoder.decode(&[header, &u64::MAX.to_be_bytes()].concat(), &mut Vec::new());
            assert!(
                result.is_err(),
                "no limit does not mean more than fits into memory"
            );
        }
    }

    #[test]
    fn without_a_limit_a_claim_alone_allocates_little() {
        let mut decoder = Decoder::new(Framing::Tcp, 0);
        decoder
            .decode(
                &[&(1_u64 << 62).to_be_bytes()[..], b"x"].concat(),
                &mut Vec::new(),
            )
            .unwrap();
        let State::Body { body, .. } = &decoder.state else {
            panic!("no payload is expected")
        };
        assert!(body.capacity() <= EAGER);
    }

    #[test]
    fn an_ipc_frame_that_is_no_message_is_refused_at_its_first_byte() {
        let mut decoder = Decoder::new(Framing::Ipc, 0);
        assert_eq!(
            decoder.decode(&[2], &mut Vec::new()),
            Err(FrameError::UnknownType(2))
        );
    }

    #[test]
    fn a_kept_message_pins_little() {
        let flood = encode(Framing::Tcp, &vec![vec![7; 16]; 2000]);
        let mut frames = Vec::new();
        Decoder::new(Framing::Tcp, 0).decode(&flood, &mut frames).unwrap();
        let first = frames.swap_remove(0).as_ptr() as usize;
        let near = frames
            .iter()
            .filter(|frame| (frame.as_ptr() as usize).abs_diff(first) < SHARED)
            .count();
        assert!(near <= SHARED / 16, "{near} messages share one allocation");
        assert_eq!(frames.len(), 1999);
    }

    #[test]
    fn a_payload_read_straight_into_its_buffer_is_complete() {
        let message: Vec<u8> = (0..3 * EAGER + 17).map(|at| at as u8).collect();
        let bytes = encode(Framing::Tcp, std::slice::from_ref(&message));
        let (mut decoder, mut frames) = (Decoder::new(Framing::Tcp, 0), Vec::new());
        let (head, mut rest) = bytes.split_at(1000);
        decoder.decode(head, &mut frames).unwrap();
        while let Some(mut body) = decoder.body() {
            let step = body.remaining_mut().min(100_000);
            assert!(step > 0);
            body.put_slice(&rest[..step]);
            rest = &rest[step..];
            decoder.finish(&mut frames);
        }
        assert!(rest.is_empty() && decoder.is_between_frames());
        assert_eq!(frames, [Bytes::from(message)]);
    }

    #[test]
    fn large_payloads_are_slices_of_what_brought_them_and_others_are_not() {
        let messages = [
            vec![1; SLICE],
            vec![2; SLICE - 1],
            vec![3; 10],
            vec![4; SLICE + 1],
        ];
        let input = Bytes::from(encode(Framing::Tcp, &messages));
        let (mut decoder, mut frames) = (Decoder::new(Framing::Tcp, 0), Vec::new());
        decoder.decode_shared(&input, &mut frames).unwrap();
        assert_eq!(frames, messages);
        assert!(decoder.expects_large());
        let inside = |frame: &Bytes| input.as_ptr_range().contains(&frame.as_ptr());
        assert_eq!(
            frames.iter().map(inside).collect::<Vec<_>>(),
            [true, false, false, true]
        );
        decoder
            .decode(&encode(Framing::Tcp, &[vec![5; 10], vec![6; 10]]), &mut frames)
            .unwrap();
        assert!(!decoder.expects_large());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            messages in messages(),
            framing in proptest::sample::select(&STREAMS[..]),
            read in 1..70_000_usize,
            write in 1..70_000_usize,
            way in ways(),
        ) {
            let mut batch = Batch::new(framing);
            messages.iter().for_each(|message| {
                let (header, body) = message.split_at(message.len().min(4));
                batch.push(header, Bytes::copy_from_slice(body));
            });
            prop_assert_eq!(batch.messages(), messages.len());
            let bytes = drain(&mut batch, write);
            prop_assert_eq!(&bytes, &encode(framing, &messages));
            let mut decoder = Decoder::new(framing, 20_000);
            let (frames, done) = decode(&mut decoder, way, &bytes, read);
            prop_assert_eq!(done, Ok(()));
            prop_assert!(decoder.is_between_frames());
            prop_assert_eq!(frames, messages);
        }

        #[test]
        fn hostile_bytes_never_panic_or_pass_the_limit_whichever_way_they_come(
            bytes in hostile(),
            framing in proptest::sample::select(&STREAMS[..]),
            limit in prop_oneof![1..64_usize, 1..70_000_usize],
            read in prop_oneof![1..20_usize, 1..70_000_usize],
            way in ways(),
        ) {
            let (frames, done) = decode(&mut Decoder::new(framing, limit), way, &bytes, read);
            prop_assert!(frames.iter().all(|frame| frame.len() <= limit));
            let whole = decode(&mut Decoder::new(framing, limit), Way::default(), &bytes, bytes.len());
            prop_assert_eq!((frames, done), whole);
        }
    }
}
