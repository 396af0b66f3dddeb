//! The task of one pipe: writes what is queued and reads what comes, as one future that drives both
//! directions.

use crate::engine::core::{Attached, Core, Plan, Stop};
use crate::pattern::{Key, Pattern, Violation};
use crate::sync::{PollSender, mpsc};
#[cfg(feature = "ws")]
use crate::transport::ReadEnd;
use crate::transport::{Reader, Writer};
#[cfg(feature = "ws")]
use crate::wire::websocket::WebSocketError;
use crate::wire::{Batch, Decoder, FrameError, Spares};
use bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::task::coop;

/// How much is read at a time, in bytes.
const READ: usize = 64 * 1024;

/// A payload of which at least this much is missing is read straight into its own buffer.
const STRAIGHT: usize = 32 * 1024;

/// How much receivers are given in one turn of the task, in bytes.
const TURN: usize = 128 * 1024;

thread_local! {
    /// Where reads go before they are decoded. One per thread and not per pipe: no connection's bytes stay
    /// in it between polls, and a thousand idle pipes need none.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        buffer: vec![0; READ].into_boxed_slice(),
        spares: Spares::default(),
    });
}

struct Scratch {
    buffer: Box<[u8]>,
    spares: Spares,
}

/// Why a pipe ended.
#[derive(Debug, thiserror::Error)]
enum End {
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

/// Drives the pipe until it ends. The pipe has left its socket when this returns or is dropped.
pub(crate) async fn run<P: Pattern>(mut attached: Attached<P>) {
    let Some(reader) = attached.reader.take() else {
        return;
    };
    let mut driver = Driver {
        core: &attached.core,
        key: attached.key,
        writer: &attached.writer,
        port: match &*attached.writer {
            Writer::Inproc(sender) => Some(PollSender::new(sender.clone())),
            _ => None,
        },
        reader,
        decoder: Decoder::new(attached.framing, attached.recv_max_size),
        limit: attached.recv_max_size,
        unwritten: None,
        frames: Vec::new(),
        handed_over: 0,
    };
    let end = poll_fn(|cx| driver.poll(cx)).await;
    let reader = driver.reader;
    attached.reason = end.to_string();
    drop(attached);
    if matches!(end, End::Stopped(Stop::Closed)) {
        reader.hang_up().await;
    }
}

struct Driver<'a, P> {
    core: &'a Core<P>,
    key: Key,
    writer: &'a Writer,
    /// The sender of an inproc pipe once more, in the form that can be waited for.
    port: Option<PollSender<Bytes>>,
    reader: Reader,
    decoder: Decoder,
    limit: usize,
    /// Begun, and waiting for the connection to take more.
    unwritten: Option<Batch>,
    frames: Vec<Bytes>,
    /// Payload bytes that receivers were given in this turn.
    handed_over: usize,
}

impl<P: Pattern> Driver<'_, P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            // One unit of tokio's budget per round, so that a flood leaves the other tasks their time.
            let budget = ready!(coop::poll_proceed(cx));
            let (batch, read) = match self.core.plan(self.key, cx) {
                Plan::Work { batch, read } => (batch, read),
                Plan::Stop(stop) => return Poll::Ready(stop.into()),
            };
            let (batch, resumed) = match batch {
                Some(batch) => (Some(batch), false),
                None => (self.unwritten.take(), true),
            };
            let mut progress = false;
            if let Some(batch) = batch {
                match self.poll_write(cx, batch, resumed) {
                    Poll::Ready(Ok(batch)) => {
                        self.core.end_write(self.key, batch, true);
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                    Poll::Pending => {}
                }
            }
            if read {
                match self.poll_read(cx) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => {}
                }
            }
            if !progress {
                return Poll::Pending;
            }
            budget.made_progress();
            if self.handed_over >= TURN {
                self.handed_over = 0;
                // Receivers first: what has just been read is still in the processor's cache. This comes back
                // when they have had their turn.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
        }
    }

    /// Writes all of `batch` and gives it back empty, or keeps it and waits.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut batch: Batch,
        resumed: bool,
    ) -> Poll<io::Result<Batch>> {
        if let Some(port) = &mut self.port {
            loop {
                if batch.is_empty() {
                    return Poll::Ready(Ok(batch));
                }
                match port.poll_reserve(cx) {
                    Poll::Ready(Ok(())) => {
                        let message = batch.pop_message().unwrap_or_default();
                        port.send_item(message).map_err(|_| io::ErrorKind::BrokenPipe)?;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Poll::Pending => break,
                }
            }
        } else {
            if !resumed {
                self.writer.try_write(&mut batch)?;
            }
            let written = batch.is_empty() && !self.reader.keeps_back();
            if written || self.reader.poll_write(cx, self.writer, &mut batch)?.is_ready() {
                return Poll::Ready(Ok(batch));
            }
        }
        self.unwritten = Some(batch);
        Poll::Pending
    }

    /// Reads once and delivers what that brings.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let read = match &mut self.reader {
            Reader::Inproc(receiver) => ready!(poll_messages(receiver, cx, self.limit, &mut self.frames)),
            #[cfg(feature = "ws")]
            Reader::WebSocket(socket) => ready!(SCRATCH.with_borrow_mut(|scratch| {
                socket.poll_messages(cx, &mut scratch.buffer, self.limit, &mut self.frames)
            }))
            .map_err(End::from),
            _ => ready!(self.poll_bytes(cx)),
        };
        // What came before a fault is still good.
        let count = self.frames.len();
        if count > 0 {
            self.handed_over += self.frames.iter().map(Bytes::len).sum::<usize>();
            self.core.deliver(self.key, &mut self.frames)?;
            if self.frames.capacity() > 8 * count.max(8) {
                // The room for a flood is not kept once it is over.
                self.frames.shrink_to(count);
            }
        }
        Poll::Ready(read)
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
    fn poll_decode(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, End>> {
        if self.decoder.missing() >= STRAIGHT
            && let Some(mut body) = self.decoder.body()
        {
            let read = ready!(self.reader.poll_read_body(cx, &mut body))?;
            self.decoder.finish(&mut self.frames);
            return Poll::Ready(Ok(read));
        }
        let read = ready!(self.reader.poll_read(cx, buffer))?;
        let input = buffer.get(..read).unwrap_or_default();
        self.decoder.decode(input, &mut self.frames)?;
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
