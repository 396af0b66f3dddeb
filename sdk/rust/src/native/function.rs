//! Owns one running function: its channel, the calls that are in flight, and the gathering of their results.
//!
//! A call is begun in this task; most are done with that, and none of those costs a task. What has to wait becomes a task
//! of its own, so that it holds up nobody. Results go out together, as soon as nothing more is there to be begun, or when
//! calls have been begun for a while; then what has come meanwhile is taken in, too. A call whose deadline has passed is
//! not begun.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::function::{FunctionContext, ResultWriter, Results, ToFunction};
use serde_json::Value;
use serde_json::value::RawValue;
use sp_proto::{Message, Pair, RecvError};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::orders::End;
use super::using::{StartError, Use};
use crate::context::Place;
use crate::erased::{AnyFunction, BoxFuture};
use crate::error::describe;
use crate::guard::{Panicked, guard};
use crate::{Context, Error, Result};

/// Results that have this many bytes go out.
const BATCH_BYTES: usize = 256 * 1024;

/// How long calls are begun before what has come of them goes out.
const TURN: Duration = Duration::from_millis(20);

/// So many calls wait here at most before what is in the socket is left there.
const AHEAD: usize = 8192;

const LATE: &str = "it took longer than the host waits";

/// Messages that are handled before their results go out, if so many are there.
const RUN: u32 = 16;

/// Opens its channel and serves it until it is stopped.
pub(super) async fn run(using: &Use, request: u64, function: Arc<dyn AnyFunction>) {
    let cancellation = CancellationToken::new();
    let start = async {
        let pair = Pair::with_options(using.socket.clone());
        pair.dial(&using.address)
            .await
            .map_err(|error| using.dial_error(error))?;
        Ok::<_, StartError>(pair)
    };
    let Some(pair) = using.open(request, &cancellation, start).await else {
        return;
    };
    let mut calls = Calls {
        using,
        function,
        cancellation: cancellation.clone(),
        results: ResultWriter::default(),
        finished: VecDeque::new(),
        waiting: VecDeque::new(),
        running: JoinSet::new(),
        handles: HashMap::new(),
        turn: Instant::now(),
    };
    tokio::select! {
        biased;
        () = calls.serve(&pair) => {}
        () = using.past_work(&cancellation) => {
            tracing::warn!(function = %using.symbol, "calls did not end in time and were dropped");
        }
    }
    calls.running.shutdown().await;
    calls.flush(&pair).await;
    pair.close().await;
    using.answer_stop(Ok(Value::Null)).await;
}

struct Calls<'a> {
    using: &'a Use,
    function: Arc<dyn AnyFunction>,
    cancellation: CancellationToken,
    results: ResultWriter,
    /// Messages that are ready to go out.
    finished: VecDeque<Vec<u8>>,
    /// Calls for which there is no room or no time now.
    waiting: VecDeque<Call>,
    running: JoinSet<(u64, Result<Value>)>,
    handles: HashMap<u64, AbortHandle>,
    /// Until when calls may be begun without a break.
    turn: Instant,
}

struct Call {
    id: u64,
    args: Vec<Value>,
    context: Context,
    /// Then nobody waits for it any more.
    deadline: Option<Instant>,
}

enum Wake {
    Message(Result<Message, RecvError>),
    Ended(Option<Result<(u64, Result<Value>), JoinError>>),
    Order,
}

impl Calls<'_> {
    async fn serve(&mut self, pair: &Pair) {
        loop {
            let order = self.using.orders.end();
            if order == Some(End::Broken) {
                return;
            }
            let has_room = self.waiting.is_empty();
            if !has_room && self.running.len() < self.most() {
                // Its deadlines begin, and it may cancel what waits.
                while order.is_none() && self.waiting.len() < AHEAD {
                    let Ok(Some(message)) = pair.try_recv() else { break };
                    self.handle(&message);
                }
                while let Some(ended) = self.running.try_join_next() {
                    self.handle_ended(Some(ended));
                }
                self.turn = Instant::now() + TURN;
                self.begin_waiting();
                self.flush(pair).await;
                tokio::task::yield_now().await;
                continue;
            }
            self.turn = Instant::now() + TURN;
            if order.is_some() && has_room {
                // What has come before the order is finished, what comes after it is nobody's.
                while let Ok(Some(message)) = pair.try_recv() {
                    self.handle(&message);
                    self.flush(pair).await;
                }
                if !self.waiting.is_empty() {
                    // Their turn was over before they were begun.
                    continue;
                }
                if self.running.is_empty() {
                    return;
                }
            }
            let wake = tokio::select! {
                message = pair.recv(), if has_room && order.is_none() => Wake::Message(message),
                ended = self.running.join_next(), if !self.running.is_empty() => Wake::Ended(ended),
                () = self.using.orders.given(), if order.is_none() => Wake::Order,
            };
            self.turn = Instant::now() + TURN;
            match wake {
                Wake::Message(Ok(message)) => self.handle_all(message, pair),
                Wake::Message(Err(RecvError::TimedOut)) | Wake::Order => {}
                Wake::Message(Err(_)) => return,
                Wake::Ended(ended) => {
                    self.handle_ended(ended);
                    while let Some(ended) = self.running.try_join_next() {
                        self.handle_ended(Some(ended));
                    }
                    self.begin_waiting();
                }
            }
            self.flush(pair).await;
        }
    }

    /// Handles a message and those that are there already.
    fn handle_all(&mut self, message: Message, pair: &Pair) {
        self.handle(&message);
        for _ in 1..RUN {
            if !self.waiting.is_empty() || !self.finished.is_empty() {
                return;
            }
            match pair.try_recv() {
                Ok(Some(message)) => self.handle(&message),
                _ => return,
            }
        }
    }

    fn handle(&mut self, message: &[u8]) {
        match ToFunction::decode(message) {
            Ok(ToFunction::Calls {
                context,
                timeout,
                calls,
            }) => self.handle_calls(&context, timeout, calls),
            Ok(ToFunction::Cancel(ids)) => {
                for id in &ids {
                    if let Some(handle) = self.handles.remove(id) {
                        handle.abort();
                    }
                }
                self.waiting.retain(|call| !ids.contains(&call.id));
            }
            Err(error) => {
                // Whoever sent it waits in vain; the log says why.
                tracing::warn!(function = %self.using.symbol, %error, "a message was not understood");
            }
        }
    }

    fn handle_calls(&mut self, context: &FunctionContext, timeout: u64, calls: Vec<(u64, Vec<Value>)>) {
        let deadline = (timeout > 0).then(|| Instant::now() + Duration::from_millis(timeout));
        let context = self.using.context(
            SymbolKind::Function,
            Place::from(context),
            Some(context.rule_id.clone()),
            None,
            self.cancellation.clone(),
        );
        let span = context.span().clone();
        let _inside = span.enter();
        for (id, args) in calls {
            let call = Call {
                id,
                args,
                context: context.clone(),
                deadline,
            };
            let now = Instant::now();
            if self.waiting.is_empty() && self.running.len() < self.most() && now < self.turn {
                self.begin(call, now);
            } else {
                self.waiting.push_back(call);
            }
        }
    }

    /// How many calls may be under way.
    fn most(&self) -> usize {
        self.using.options.calls.max(1)
    }

    fn begin_waiting(&mut self) {
        while self.running.len() < self.most() {
            let now = Instant::now();
            if now >= self.turn {
                return;
            }
            let Some(call) = self.waiting.pop_front() else {
                return;
            };
            let span = call.context.span().clone();
            span.in_scope(|| self.begin(call, now));
        }
    }

    /// Goes as far with a call as it goes without waiting; then it is a task's.
    fn begin(&mut self, call: Call, now: Instant) {
        let Call {
            id,
            args,
            context,
            deadline,
        } = call;
        if deadline.is_some_and(|deadline| now >= deadline) {
            self.write(id, Err(LATE.into()));
            return;
        }
        let span = context.span().clone();
        let mut future = Arc::clone(&self.function).call(args, context);
        // A task polls it again at once, whatever this poll has found.
        let mut nobody = std::task::Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut nobody))) {
            Ok(Poll::Ready(result)) => self.write(id, result),
            Err(payload) => self.write(id, Err(Panicked::new(payload.as_ref()).into())),
            Ok(Poll::Pending) => {
                let task = finish(id, future, deadline).instrument(span);
                let handle = self.running.spawn(task);
                self.handles.insert(id, handle);
            }
        }
    }

    fn handle_ended(&mut self, ended: Option<Result<(u64, Result<Value>), JoinError>>) {
        // Otherwise it was cancelled: nobody waits for it.
        if let Some(Ok((id, result))) = ended {
            self.handles.remove(&id);
            self.write(id, result);
        }
    }

    fn write(&mut self, id: u64, result: Result<Value>) {
        match result {
            Ok(value) => {
                if let Err(error) = self.results.push(id, &value) {
                    self.results.push_error(id, &error.to_string());
                }
            }
            Err(error) => self.results.push_error(id, &describe(error.as_ref())),
        }
        if self.results.len() >= self.using.limits.batch || self.results.size() >= BATCH_BYTES {
            self.finish_batch();
        }
    }

    fn finish_batch(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let message = self.results.finish();
        if message.len() <= self.using.limits.message {
            self.finished.push_back(message);
        } else {
            self.split(&message);
        }
    }

    /// A message that is too long is sent in parts, one per result; a result that is too long is an error.
    fn split(&mut self, message: &[u8]) {
        let limit = self.using.limits.message;
        let Ok(Results { results, errors }) = Results::<&RawValue>::decode(message, usize::MAX) else {
            return;
        };
        for (id, result) in results {
            let mut part = ResultWriter::default();
            // Raw JSON is always written.
            let _ = part.push(id, result);
            if part.size() > limit {
                let found = result.get().len();
                part = ResultWriter::default();
                part.push_error(
                    id,
                    &format!("the result has {found} bytes; a message has at most {limit}"),
                );
            }
            self.finished.push_back(part.finish());
        }
        for (id, mut error) in errors {
            let mut part = ResultWriter::default();
            error.truncate(error.floor_char_boundary(limit / 8));
            part.push_error(id, &error);
            self.finished.push_back(part.finish());
        }
    }

    /// Sends what there is.
    async fn flush(&mut self, pair: &Pair) {
        self.finish_batch();
        while let Some(message) = self.finished.pop_front() {
            if pair.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// The rest of a call that has to wait.
async fn finish(
    id: u64,
    future: BoxFuture<'static, Result<Value>>,
    deadline: Option<Instant>,
) -> (u64, Result<Value>) {
    let call = guard(future);
    let ended = match deadline {
        Some(deadline) => timeout_at(deadline, call).await,
        None => Ok(call.await),
    };
    let result = match ended {
        Ok(ended) => ended.map_err(Error::from).flatten(),
        Err(_) => Err(LATE.into()),
    };
    (id, result)
}
