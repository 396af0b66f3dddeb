//! The receiving half of a pipe: its connection, its decoder, and what has come in and is not yet delivered.
//! Knows no pattern and no lock; whoever has it reads: the pipe's task, or a receiver that found nothing
//! queued.

use crate::engine::core::Stop;
use crate::pattern::Violation;
use crate::sync::mpsc;
#[cfg(feature = "ws")]
use crate::transport::ReadEnd;
use crate::transport::Reader;
#[cfg(feature = "ws")]
use crate::wire::websocket::WebSocketError;
use crate::wire::{Decoder, FrameError, Framing, Spares};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, Waker, ready};

/// How much is read at a time, in bytes: a write of 64 KiB of payload and its framing.
const READ: usize = 68 * 1024;

/// A read of at least this much lends its buffer to the large messages in it. What such a message pins is then
/// mostly other messages, and no room that nothing came into.
const SHARE: usize = READ / 2;

/// A payload of which at least this much is missing is read straight into its own buffer.
const STRAIGHT: usize = 32 * 1024;

thread_local! {
    /// Where reads go before they are decoded. One per thread and not per pipe: no connection's bytes stay
    /// in it between polls, and a thousand idle pipes need none.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        buffer: BytesMut::zeroed(READ),
        spares: Spares::default(),
    });
}

struct Scratch {
    buffer: BytesMut,
    spares: Spares,
}

/// Why a pipe ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection in the middle of a message")]
    MidFrame,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[cfg(feature = "ws")]
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Stopped(#[from] Stop),
}

#[cfg(feature = "ws")]
impl From<ReadEnd> for End {
    fn from(end: ReadEnd) -> Self {
        match end {
            ReadEnd::Closed => Self::Closed,
            ReadEnd::MidMessage => Self::MidFrame,
            ReadEnd::Io(error) => Self::Io(error),
            ReadEnd::Broken(error) => Self::WebSocket(error),
        }
    }
}

/// The receiving half of one pipe.
pub(crate) struct Intake {
    pub(crate) reader: Reader,
    decoder: Decoder,
    limit: usize,
    /// The pipe's task, which the poller wakes when there is something to read, whoever reads.
    task: Option<Waker>,
    /// Read and not yet delivered.
    pub(crate) frames: Vec<Bytes>,
    /// Met while reading; the pipe's task ends the pipe with it.
    pub(crate) end: Option<End>,
}

impl Intake {
    pub(crate) fn new(reader: Reader, framing: Framing, limit: usize) -> Self {
        Self {
            reader,
            decoder: Decoder::new(framing, limit),
            limit,
            task: None,
            frames: Vec::new(),
            end: None,
        }
    }

    /// Reads once, in the pipe's task or, without a context, in a receiver. Ready: there may be frames, an end,
    /// and more to read. Pending: the pipe's task is woken when there is something.
    pub(crate) fn poll(&mut self, cx: Option<&mut Context<'_>>) -> Poll<()> {
        if self.end.is_some() {
            return Poll::Ready(());
        }
        let read = match (cx, self.task.take()) {
            (Some(cx), task) => {
                let known = task.filter(|task| task.will_wake(cx.waker()));
                self.task = Some(known.unwrap_or_else(|| cx.waker().clone()));
                self.poll_read(cx)
            }
            (None, Some(task)) => {
                let read = self.poll_read(&mut Context::from_waker(&task));
                self.task = Some(task);
                read
            }
            (None, None) => Poll::Pending,
        };
        // What came before a fault is still good.
        ready!(read).unwrap_or_else(|end| self.end = Some(end));
        Poll::Ready(())
    }

    /// After a delivery of so many frames: the room for a flood is not kept once it is over.
    pub(crate) fn shrink(&mut self, count: usize) {
        if self.frames.capacity() > 8 * count.max(8) {
            self.frames.shrink_to(count);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        match &mut self.reader {
            Reader::Inproc(receiver) => poll_messages(receiver, cx, self.limit, &mut self.frames),
            #[cfg(feature = "ws")]
            Reader::WebSocket(socket) => SCRATCH
                .with_borrow_mut(|scratch| {
                    socket.poll_messages(cx, &mut scratch.buffer, self.limit, &mut self.frames)
                })
                .map_err(End::from),
            _ => self.poll_bytes(cx),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let read = SCRATCH.with_borrow_mut(|Scratch { buffer, spares }| {
            self.decoder.swap_spares(spares);
            let read = self.poll_decode(cx, buffer);
            self.decoder.swap_spares(spares);
            read
        });
        if ready!(read)? == 0 {
            let between = self.decoder.is_between_frames();
            return Poll::Ready(Err(if between { End::Closed } else { End::MidFrame }));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, into `buffer` or straight into a large payload, and says how much it was.
    fn poll_decode(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<Result<usize, End>> {
        if self.decoder.missing() >= STRAIGHT
            && let Some(mut body) = self.decoder.body()
        {
            let read = ready!(self.reader.poll_read_body(cx, &mut body))?;
            self.decoder.finish(&mut self.frames);
            return Poll::Ready(Ok(read));
        }
        let read = ready!(self.reader.poll_read(cx, buffer))?;
        if read >= SHARE && self.decoder.expects_large() {
            let full = self.decoder.lend(buffer);
            self.decoder
                .decode_shared(&full.slice(..read), &mut self.frames)?;
        } else {
            let input = buffer.get(..read).unwrap_or_default();
            self.decoder.decode(input, &mut self.frames)?;
        }
        Poll::Ready(Ok(read))
    }
}

/// Takes the messages that are there, up to a batch's worth.
fn poll_messages(
    receiver: &mut mpsc::Receiver<Bytes>,
    cx: &mut Context<'_>,
    limit: usize,
    frames: &mut Vec<Bytes>,
) -> Poll<Result<(), End>> {
    match ready!(receiver.poll_recv_many(cx, frames, 64)) {
        0 => Poll::Ready(Err(End::Closed)),
        _ => match frames.iter().position(|frame| limit != 0 && frame.len() > limit) {
            Some(at) => {
                let length = frames.get(at).map_or(0, Bytes::len) as u64;
                frames.truncate(at);
                Poll::Ready(Err(FrameError::TooLong { length, limit }.into()))
            }
            None => Poll::Ready(Ok(())),
        },
    }
}
