//! Owns the way out of a source: a bounded queue that gathers what is sent into batches.
//!
//! Serialising is done by the caller, in its own task. What is sent is appended to the batch that is open; whoever
//! carries the batches to the host takes the open one as soon as it can, so that a batch is as long as the host is
//! busy. Only a queue that was empty wakes that carrier. Knows no socket: the source's task in [`crate::native`] or
//! [`crate::ekuiper`] takes the messages, or a test.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use mangrove_protocol::data::SourceMessage;
use mangrove_protocol::native::source::{SourceWriter, encode_end, encode_error};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::coop;

use crate::error::describe;
use crate::tuple::{Tuple, is_object, no_object};
use crate::{Error, Result};

/// A batch that has this many bytes is closed.
const BATCH_BYTES: usize = 256 * 1024;

/// So many bytes may wait; a tuple that begins below it is taken, whatever its length.
const QUEUE_BYTES: usize = 1024 * 1024;

/// One unit of a task's budget, of which tokio gives it 128 per turn, pays for so many tuples.
const SHARES: u8 = 8;

/// What a message has besides its one tuple and meta.
const FRAME: usize = 128;

/// The way out of a source, with back-pressure: when the host is slow, sending waits. Cheap to clone.
#[derive(Debug)]
pub struct Output {
    queue: Arc<Queue>,
}

/// Why a source's tuple or error was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nobody takes the source's tuples any longer: it has ended, or its channel to the host was closed.
    #[error("the source's output is closed")]
    Closed,
    /// The tuple cannot be written as JSON.
    #[error("the tuple cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The tuple is something else than an object.
    #[error("{0}")]
    NoObject(String),
    /// The tuple is longer than a message may be.
    #[error("the tuple has {found} bytes; a message has at most {limit}")]
    TooLong {
        /// How long it is, in bytes, with its meta.
        found: usize,
        /// The longest message that the host accepts, in bytes.
        limit: usize,
    },
}

/// How messages look.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// One per tuple, as eKuiper's contract has it.
    Single,
    /// Batches of at most so many tuples.
    Batches(usize),
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Tuples that wait.
    pub(crate) tuples: usize,
    /// The longest message, in bytes; 0 = any.
    pub(crate) message: usize,
}

thread_local! {
    /// Where tuples are serialised, so that most of them allocate nothing.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A scratch that grew larger than this is not kept.
const SCRATCH_KEPT: usize = 64 * 1024;

impl Output {
    /// An output and where its messages come out.
    pub(crate) fn channel(framing: Framing, bounds: Bounds) -> (Self, Messages) {
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                framing,
                bounds,
                seq: 0,
                open: SourceWriter::default(),
                offset: None,
                closed_batches: VecDeque::new(),
                tuples: 0,
                bytes: 0,
                uncharged: 0,
                outputs: 1,
                is_closed: false,
                carrier: None,
            }),
            room: Notify::new(),
        });
        let output = Self {
            queue: Arc::clone(&queue),
        };
        (output, Messages { queue })
    }

    /// Sends one tuple; waits while the queue to the host is full.
    ///
    /// # Errors
    /// The tuple was not taken: nobody takes any more, or it is too long.
    ///
    /// # Cancel safety
    /// A tuple whose `send` is dropped before it completes was not sent.
    pub async fn send(&self, tuple: impl Into<Tuple>) -> Result<(), SendError> {
        let mut tuple = tuple.into();
        let offset = tuple.take_offset();
        let meta = tuple.meta_as_json().map(str::as_bytes);
        self.queue.put(tuple.as_json().as_bytes(), meta, offset).await
    }

    /// Sends one tuple of anything that serialises into a JSON object, without metadata: the fastest way, for nothing
    /// is built or allocated in between. Waits as [`Output::send`] does.
    ///
    /// ```
    /// # use mangrove_sdk::{Result, testing};
    /// #[derive(serde::Serialize)]
    /// struct Reading { celsius: f64 }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result {
    /// let (output, mut sent) = testing::output(8);
    /// output.send_json(&Reading { celsius: 21.5 }).await?;
    /// assert_eq!(sent.recv().await.unwrap()?.message()["celsius"], 21.5);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Output::send`], and what doesn't serialise, or not into an object.
    ///
    /// # Cancel safety
    /// As [`Output::send`].
    pub async fn send_json(&self, tuple: &(impl Serialize + ?Sized)) -> Result<(), SendError> {
        let mut scratch = SCRATCH.take();
        scratch.clear();
        serde_json::to_writer(&mut scratch, tuple)?;
        if !is_object(&scratch) {
            return Err(SendError::NoObject(no_object(&String::from_utf8_lossy(&scratch))));
        }
        let sent = self.queue.put(&scratch, None, None).await;
        if scratch.capacity() <= SCRATCH_KEPT {
            SCRATCH.set(scratch);
        }
        sent
    }

    /// Reports an error that the source survives, such as a record that it can't read. The rule counts it.
    ///
    /// # Errors
    /// The error was not taken: nobody takes any more.
    ///
    /// # Cancel safety
    /// As [`Output::send`].
    pub async fn report(&self, error: impl Into<Error>) -> Result<(), SendError> {
        let text = describe(error.into().as_ref());
        self.queue
            .when_room(|state| {
                let message = match state.framing {
                    Framing::Single => SourceMessage::Error(text.clone()).encode(),
                    Framing::Batches(_) => encode_error(state.next_seq(), &text),
                };
                state.close_batch(message, 1);
            })
            .await
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Told when messages were taken, or the queue was closed.
    room: Notify,
}

#[derive(Debug)]
struct State {
    framing: Framing,
    bounds: Bounds,
    /// The newest message's number.
    seq: u64,
    /// What is being gathered.
    open: SourceWriter,
    /// Of the newest tuple that had one.
    offset: Option<Value>,
    /// Messages that are finished, with the number of their tuples.
    closed_batches: VecDeque<(Vec<u8>, usize)>,
    /// All that wait, also those of the open batch.
    tuples: usize,
    /// Of the finished messages.
    bytes: usize,
    /// Tuples since a unit of budget was paid.
    uncharged: u8,
    /// Handles through which more can come.
    outputs: usize,
    is_closed: bool,
    /// Who takes messages, while it waits for one.
    carrier: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of the author's runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, tuple: &[u8], meta: Option<&[u8]>, offset: Option<Value>) -> Result<(), SendError> {
        // A source that never waits otherwise must let others run.
        poll_fn(poll_budget).await;
        let mut offset = Some(offset);
        let due = self
            .when_room(|state| {
                state.put(tuple, meta, offset.take().flatten())?;
                Ok::<_, SendError>(state.is_budget_due())
            })
            .await??;
        if due {
            poll_fn(spend).await;
        }
        Ok(())
    }

    /// Does it once there is room, and wakes the carrier if it waits.
    async fn when_room<R>(&self, mut add: impl FnMut(&mut State) -> R) -> Result<R, SendError> {
        let mut attempt = || {
            let mut state = self.lock();
            if state.is_closed {
                return Some(Err(SendError::Closed));
            }
            if !state.has_room() {
                return None;
            }
            let result = add(&mut state);
            let carrier = state.carrier.take();
            drop(state);
            if let Some(carrier) = carrier {
                carrier.wake();
            }
            Some(Ok(result))
        };
        if let Some(done) = attempt() {
            return done;
        }
        loop {
            let mut room = pin!(self.room.notified());
            // Before the look, so that nothing that happens after it is missed.
            room.as_mut().enable();
            if let Some(done) = attempt() {
                return done;
            }
            room.await;
        }
    }
}

fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    if coop::has_budget_remaining() {
        Poll::Ready(())
    } else {
        coop::poll_proceed(cx).map(drop)
    }
}

/// Never waits: the tuple is taken already.
fn spend(cx: &mut Context<'_>) -> Poll<()> {
    if let Poll::Ready(unit) = coop::poll_proceed(cx) {
        unit.made_progress();
    }
    Poll::Ready(())
}

impl State {
    fn is_budget_due(&mut self) -> bool {
        self.uncharged += 1;
        let due = self.uncharged >= SHARES;
        if due {
            self.uncharged = 0;
        }
        due
    }

    fn has_room(&self) -> bool {
        self.tuples < self.bounds.tuples && self.bytes + self.open.size() < QUEUE_BYTES
    }

    fn next_seq(&mut self) -> u64 {
        self.finish_open();
        self.seq += 1;
        self.seq
    }

    fn put(&mut self, tuple: &[u8], meta: Option<&[u8]>, offset: Option<Value>) -> Result<(), SendError> {
        let found = tuple.len() + meta.map_or(0, <[u8]>::len);
        let limit = self.bounds.message;
        if limit != 0 && found + FRAME > limit {
            return Err(SendError::TooLong { found, limit });
        }
        match self.framing {
            Framing::Single => {
                let message = SourceMessage::encode_json(tuple, meta.unwrap_or(b"{}"));
                self.close_batch(message, 1);
            }
            Framing::Batches(limit) => {
                if !self.open.is_empty() && self.open.size() + found > BATCH_BYTES {
                    self.finish_open();
                }
                self.open.push_json(tuple, meta);
                self.tuples += 1;
                self.offset = offset.or(self.offset.take());
                if self.open.len() >= limit {
                    self.finish_open();
                }
            }
        }
        Ok(())
    }

    fn close_batch(&mut self, message: Vec<u8>, tuples: usize) {
        self.bytes += message.len();
        self.tuples += tuples;
        self.closed_batches.push_back((message, tuples));
    }

    fn finish_open(&mut self) {
        let tuples = self.open.len();
        if tuples == 0 {
            return;
        }
        self.seq += 1;
        let message = self.open.finish(self.seq, self.offset.take().as_ref());
        self.tuples -= tuples;
        self.close_batch(message, tuples);
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        if self.closed_batches.is_empty() {
            self.finish_open();
        }
        let (message, tuples) = self.closed_batches.pop_front()?;
        self.bytes -= message.len();
        self.tuples -= tuples;
        Some(message)
    }
}

/// What a source's output has gathered, for the one who carries it on. Dropped, it closes the output.
#[derive(Debug)]
pub(crate) struct Messages {
    queue: Arc<Queue>,
}

impl Messages {
    /// The next message; `None` once the output is closed and everything was taken. For one caller at a time.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            let mut state = self.queue.lock();
            if let Some(message) = state.take() {
                drop(state);
                self.queue.room.notify_waiters();
                return Poll::Ready(Some(message));
            }
            if state.is_closed {
                return Poll::Ready(None);
            }
            state.carrier = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes nothing more; what is there can still be taken.
    pub(crate) fn close(&self) {
        let carrier = {
            let mut state = self.queue.lock();
            state.is_closed = true;
            state.carrier.take()
        };
        self.queue.room.notify_waiters();
        carrier.into_iter().for_each(Waker::wake);
    }

    /// The number of the last message, with all that is gathered; 0: none.
    pub(crate) fn last_seq(&self) -> u64 {
        let mut state = self.queue.lock();
        state.finish_open();
        state.seq
    }

    /// The message that says that the source has ended by itself. It comes after everything that was sent.
    pub(crate) fn end(&self, error: Option<&str>) -> Vec<u8> {
        let mut state = self.queue.lock();
        let seq = state.next_seq();
        encode_end(seq, error)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.close();
    }
}

impl Clone for Output {
    fn clone(&self) -> Self {
        self.queue.lock().outputs += 1;
        Self {
            queue: Arc::clone(&self.queue),
        }
    }
}

/// When the last output is gone nothing more comes.
impl Drop for Output {
    fn drop(&mut self) {
        let carrier = {
            let mut state = self.queue.lock();
            state.outputs -= 1;
            if state.outputs > 0 {
                return;
            }
            state.is_closed = true;
            state.carrier.take()
        };
        carrier.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_protocol::Object;
    use mangrove_protocol::native::source::{SourceBatch, SourceContent};
    use serde_json::json;

    fn channel(tuples: usize, batch: usize) -> (Output, Messages) {
        let bounds = Bounds {
            tuples,
            message: 1024,
        };
        Output::channel(Framing::Batches(batch), bounds)
    }

    async fn next(messages: &Messages) -> SourceBatch<Object> {
        let message = messages.next().await.unwrap();
        SourceBatch::decode(&message, 100).unwrap()
    }

    fn numbers(batch: &SourceBatch<Object>) -> (Vec<u64>, Option<Value>) {
        match &batch.content {
            SourceContent::Tuples { tuples, offset, .. } => {
                let numbers = tuples.iter().filter_map(|tuple| tuple["n"].as_u64());
                (numbers.collect(), offset.clone())
            }
            other => panic!("no tuples: {other:?}"),
        }
    }

    fn tuple(n: u64) -> Tuple {
        Tuple::new(&json!({ "n": n })).unwrap()
    }

    #[tokio::test]
    async fn what_is_there_goes_together_with_its_newest_offset() {
        let (output, messages) = channel(100, 3);
        for n in 1..=4 {
            output.send(tuple(n).with_offset(&n).unwrap()).await.unwrap();
        }
        output.send(tuple(5)).await.unwrap();
        output.report("bad").await.unwrap();
        output.send_json(&json!({"n": 6})).await.unwrap();
        assert_eq!(numbers(&next(&messages).await), (vec![1, 2, 3], Some(json!(3))));
        assert_eq!(numbers(&next(&messages).await), (vec![4, 5], Some(json!(4))));
        assert_eq!(
            next(&messages).await.content,
            SourceContent::Error("bad".to_owned())
        );
        let last = next(&messages).await;
        assert_eq!((numbers(&last), last.seq), ((vec![6], None), 4));
        drop(output);
        assert_eq!(messages.next().await, None);
        assert_eq!(messages.last_seq(), 4);
    }

    #[tokio::test]
    async fn sending_waits_for_room_and_ends_with_the_channel() {
        let (output, messages) = channel(2, 1);
        output.send(tuple(1)).await.unwrap();
        output.send(tuple(2)).await.unwrap();
        {
            let waits = std::pin::pin!(output.send(tuple(3)));
            let mut nobody = Context::from_waker(Waker::noop());
            assert!(waits.poll(&mut nobody).is_pending());
        }
        // The one that was dropped while it waited was not sent.
        let (sent, first) = tokio::join!(output.send(tuple(4)), next(&messages));
        sent.unwrap();
        assert_eq!(numbers(&first).0, [1]);
        assert_eq!(numbers(&next(&messages).await).0, [2]);
        assert_eq!(numbers(&next(&messages).await).0, [4]);
        output.send(tuple(5)).await.unwrap();
        output.send(tuple(6)).await.unwrap();
        let close = async { messages.close() };
        let (refused, ()) = tokio::join!(output.send(tuple(7)), close);
        assert!(matches!(refused, Err(SendError::Closed)));
        assert_eq!(numbers(&next(&messages).await).0, [5]);
    }

    #[tokio::test]
    async fn what_is_no_tuple_is_an_error_of_its_send() {
        let (output, messages) = channel(2, 1);
        let error = output.send_json(&[1]).await.unwrap_err().to_string();
        assert_eq!(error, "a tuple is a JSON object; this serialises as [1]");
        let error = output.send_json(&json!({"pad": "x".repeat(2000)})).await;
        assert!(
            matches!(error, Err(SendError::TooLong { limit: 1024, .. })),
            "{error:?}"
        );
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(output.send_json(&keys).await, Err(SendError::Json(_))));
        output.send(Tuple::default()).await.unwrap();
        assert_eq!(messages.next().await.unwrap(), br#"{"seq":1,"tuples":[{}]}"#);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_source_that_never_waits_lets_others_run() {
        let (output, messages) = channel(usize::MAX, 1024);
        let sent = Cell::new(0);
        let flood = async {
            loop {
                output.send_json(&json!({"n": 1})).await.unwrap();
                sent.set(sent.get() + 1);
            }
        };
        tokio::select! {
            biased;
            () = flood => {}
            message = messages.next() => assert!(message.is_some()),
        }
        assert!(sent.get() <= 128 * u64::from(SHARES), "{} in a row", sent.get());
    }
}
