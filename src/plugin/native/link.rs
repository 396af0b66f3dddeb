//! Owns the channel of one function in one process: calls go out together with whatever else is queued, results
//! come back in any order, and nobody waits for anybody else. Two tasks per link, which the session owns: one
//! sends, one receives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mangrove_protocol::native::control::Validate;
use mangrove_protocol::native::function::{CallWriter, FunctionContext, Results, encode_cancel};
use serde_json::Value;
use sp_proto::{Pair, PipeId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::session::Order;
use super::{BATCH_BYTES, milliseconds};
use crate::config::Portable;
use crate::plugin::record::Record;

/// Calls that may wait to be sent.
const LINE: usize = 4096;

/// Calls that may be in the plugin at the same time.
const IN_FLIGHT: usize = 16_384;

/// How long a function may be without a connection before it is started again. Dialers come back within this
/// time.
pub(in crate::plugin) const RECONNECT: Duration = Duration::from_secs(3);

/// What has come of a call.
#[derive(Debug)]
pub(in crate::plugin) enum Reply {
    Result(Value),
    Error(String),
    /// The connection broke while it was in the plugin.
    Broken,
    /// It never left.
    NotSent(Vec<Value>),
}

#[derive(Debug)]
struct Call {
    id: u64,
    args: Vec<Value>,
    context: Arc<FunctionContext>,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Pending {
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    /// Calls that were sent, and that nobody waits for any more.
    cancelled: Vec<u64>,
    closed: bool,
}

/// Where calls are put in.
#[derive(Debug)]
pub(in crate::plugin) struct Link {
    aggregate: bool,
    next: AtomicU64,
    line: mpsc::Sender<Call>,
    pending: Mutex<Pending>,
    /// There is room for more calls, or something to cancel.
    changed: Notify,
    orders: mpsc::Sender<Order>,
    /// The plugin has said that it runs the function.
    started: Notify,
    closed: CancellationToken,
    /// Somebody is at the other end.
    connected: AtomicBool,
    /// Calls that somebody waits for.
    awaited: AtomicUsize,
    /// Calls that were given up since the last result came.
    given_up: AtomicUsize,
}

/// A call that somebody waits for. Dropped: nobody does any more.
struct Waiting<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.awaited.fetch_sub(1, Ordering::Relaxed);
        let mut pending = super::lock(&self.link.pending);
        if pending.calls.remove(&self.id).is_some() {
            pending.cancelled.push(self.id);
            drop(pending);
            self.link.given_up.fetch_add(1, Ordering::Relaxed);
            self.link.changed.notify_one();
        }
    }
}

impl Link {
    /// Calls the function and waits for what comes of it.
    ///
    /// # Cancel safety
    /// The plugin is told that nobody waits; it may have been called or not.
    pub(in crate::plugin) async fn call(&self, args: Vec<Value>, context: Arc<FunctionContext>) -> Reply {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { link: self, id };
        let call = Call {
            id,
            args,
            context,
            reply,
        };
        let reply = match self.line.send(call).await {
            Ok(()) => answer.await.unwrap_or(Reply::Broken),
            Err(mpsc::error::SendError(call)) => Reply::NotSent(call.args),
        };
        // It is no longer pending, so there is nothing to cancel.
        std::mem::forget(waiting);
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        reply
    }

    /// Asks whether the function takes these arguments. `None`: the process is gone.
    pub(in crate::plugin) async fn validate(&self, request: Validate) -> Option<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Validate(request, reply)).await.ok()?;
        Some(answer.await.ok()?.map(drop))
    }

    /// Whether the function works on groups.
    pub(in crate::plugin) fn is_aggregate(&self) -> bool {
        self.aggregate
    }

    /// Whether calls can be put in.
    pub(in crate::plugin) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// The plugin says that it runs the function: it has a connection, or is to have one soon.
    pub(super) fn note_started(&self) {
        self.started.notify_one();
    }

    /// Whether somebody is at the other end just now.
    pub(in crate::plugin) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many calls the process owes. Those that were given up count until it answers another one: where nothing comes
    /// out, nothing more should go in.
    pub(in crate::plugin) fn load(&self) -> usize {
        self.awaited.load(Ordering::Relaxed) + self.given_up.load(Ordering::Relaxed)
    }

    /// Ends both tasks.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    fn close_pending(&self) {
        let mut pending = super::lock(&self.pending);
        pending.closed = true;
        let calls = std::mem::take(&mut pending.calls);
        pending.cancelled.clear();
        drop(pending);
        for reply in calls.into_values() {
            let _ = reply.send(Reply::Broken);
        }
    }
}

/// A new link and the work of its two tasks.
pub(super) struct Parts {
    pub(super) link: Arc<Link>,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
}

/// Sends calls.
pub(super) struct Writer {
    link: Arc<Link>,
    socket: Pair,
    calls: mpsc::Receiver<Call>,
    timeout: u64,
    batch: usize,
    message: usize,
}

/// Receives results, and sees to it that there is a connection.
pub(super) struct Reader {
    link: Arc<Link>,
    socket: Pair,
    /// The use's in its process.
    number: u64,
    /// The connection, when there is one.
    pipe: Option<PipeId>,
    was_connected: bool,
    /// When it has been without one for too long.
    lost_at: Option<Instant>,
    record: Arc<Record>,
    batch: usize,
}

pub(super) fn new(
    socket: Pair,
    number: u64,
    aggregate: bool,
    orders: mpsc::Sender<Order>,
    record: Arc<Record>,
    settings: &Portable,
) -> Parts {
    let (line, calls) = mpsc::channel(LINE);
    let limits = super::limits(settings);
    let link = Arc::new(Link {
        aggregate,
        next: AtomicU64::new(1),
        line,
        pending: Mutex::default(),
        changed: Notify::new(),
        orders,
        started: Notify::new(),
        closed: CancellationToken::new(),
        connected: AtomicBool::new(false),
        awaited: AtomicUsize::new(0),
        given_up: AtomicUsize::new(0),
    });
    Parts {
        writer: Writer {
            link: Arc::clone(&link),
            socket: socket.clone(),
            calls,
            timeout: milliseconds(settings.call_timeout),
            batch: limits.batch,
            message: limits.message,
        },
        reader: Reader {
            link: Arc::clone(&link),
            socket,
            number,
            pipe: None,
            was_connected: false,
            lost_at: None,
            record,
            batch: limits.batch,
        },
        link,
    }
}

impl Writer {
    /// Runs until the link is closed.
    pub(super) async fn run(mut self) {
        let closed = self.link.closed.clone();
        let _ended = closed.run_until_cancelled(self.send_all()).await;
        // Whoever has put in a call that never left may put it in elsewhere.
        self.calls.close();
        while let Some(call) = self.calls.recv().await {
            let _ = call.reply.send(Reply::NotSent(call.args));
        }
        self.link.close_pending();
    }

    async fn send_all(&mut self) {
        let mut queued = Vec::new();
        loop {
            // More than that would be in the plugin at the same time.
            let room = {
                let pending = super::lock(&self.link.pending);
                IN_FLIGHT.saturating_sub(pending.calls.len()).min(self.batch)
            };
            queued.clear();
            tokio::select! {
                biased;
                () = self.link.changed.notified() => {}
                count = self.calls.recv_many(&mut queued, room), if room > 0 => {
                    if count == 0 {
                        return;
                    }
                }
            }
            self.cancel().await;
            queued.retain(|call| !call.reply.is_closed());
            if self.send_calls(queued.drain(..)).await.is_err() {
                return;
            }
        }
    }

    async fn send_calls(&self, calls: impl Iterator<Item = Call>) -> Result<(), sp_proto::SendError> {
        let mut writer = CallWriter::default();
        let mut shared: Option<Arc<FunctionContext>> = None;
        for call in calls {
            if let Some(context) = shared.take_if(|context| **context != *call.context) {
                self.flush(&mut writer, &context).await?;
            }
            writer.push(call.id, &call.args);
            if writer.size() > self.message && writer.len() > 1 {
                writer.undo();
                self.flush(&mut writer, &call.context).await?;
                writer.push(call.id, &call.args);
            }
            if writer.size() > self.message {
                let (found, most) = (writer.size(), self.message);
                writer.undo();
                let error = format!("the call has {found} bytes; at most {most} are allowed");
                let _ = call.reply.send(Reply::Error(error));
                continue;
            }
            super::lock(&self.link.pending).calls.insert(call.id, call.reply);
            if writer.len() >= self.batch || writer.size() > BATCH_BYTES {
                self.flush(&mut writer, &call.context).await?;
            }
            shared = Some(call.context);
        }
        match shared {
            Some(context) => self.flush(&mut writer, &context).await,
            None => Ok(()),
        }
    }

    async fn flush(
        &self,
        writer: &mut CallWriter,
        context: &FunctionContext,
    ) -> Result<(), sp_proto::SendError> {
        if writer.is_empty() {
            return Ok(());
        }
        self.socket.send(writer.finish(context, self.timeout)).await
    }

    /// Tells the plugin what nobody waits for any more.
    async fn cancel(&self) {
        let cancelled = std::mem::take(&mut super::lock(&self.link.pending).cancelled);
        for ids in cancelled.chunks(self.batch) {
            if self.socket.send(encode_cancel(ids)).await.is_err() {
                return;
            }
        }
    }
}

impl Reader {
    /// Runs until the link is closed.
    pub(super) async fn run(mut self) {
        let mut events = self.socket.events();
        self.look();
        loop {
            tokio::select! {
                biased;
                () = self.link.closed.cancelled() => break,
                message = self.socket.recv() => match message {
                    Ok(message) => self.handle(&message),
                    Err(_) => break,
                },
                Some(event) = events.recv() => self.handle_event(&event),
                () = self.link.started.notified() => self.look(),
                () = super::sleep_until(self.lost_at) => self.handle_lost(),
            }
        }
        self.socket.close().await;
    }

    fn handle_event(&mut self, event: &sp_proto::Event) {
        let before = self.pipe;
        self.look();
        match event {
            sp_proto::Event::PipeRemoved { reason, .. } => self.break_all(reason),
            sp_proto::Event::Missed(_) if before.is_some() && before != self.pipe => {
                self.break_all("another one has taken its place");
            }
            _ => {}
        }
    }

    /// Looks whether there is a connection.
    fn look(&mut self) {
        let before = std::mem::replace(&mut self.pipe, self.socket.pipes().first().map(|info| info.id));
        self.link.connected.store(self.pipe.is_some(), Ordering::Relaxed);
        if self.pipe != before {
            self.link.given_up.store(0, Ordering::Relaxed);
        }
        if self.pipe.is_some() {
            self.was_connected = true;
            self.lost_at = None;
        } else {
            self.lost_at.get_or_insert_with(|| Instant::now() + RECONNECT);
        }
    }

    fn handle_lost(&mut self) {
        self.lost_at = None;
        self.look();
        if self.pipe.is_none() {
            // When nobody heeds it now, once more.
            let _ = self.link.orders.try_send(Order::Lost {
                number: self.number,
                was_connected: self.was_connected,
            });
        }
    }

    fn handle(&self, message: &[u8]) {
        let read = match Results::<Value>::decode(message, self.batch) {
            Ok(read) => read,
            Err(error) => return self.record.note_error(&error.to_string()),
        };
        if self.link.given_up.load(Ordering::Relaxed) > 0 {
            self.link.given_up.store(0, Ordering::Relaxed);
        }
        let mut pending = super::lock(&self.link.pending);
        let was_full = pending.calls.len() >= IN_FLIGHT;
        for (id, result) in read.results {
            if let Some(reply) = pending.calls.remove(&id) {
                let _ = reply.send(Reply::Result(result));
            }
        }
        for (id, error) in read.errors {
            if let Some(reply) = pending.calls.remove(&id) {
                let _ = reply.send(Reply::Error(error));
            }
        }
        drop(pending);
        if was_full {
            self.link.changed.notify_one();
        }
    }

    /// What was in the plugin when the connection broke.
    fn break_all(&self, reason: &str) {
        let calls = std::mem::take(&mut super::lock(&self.link.pending).calls);
        if !calls.is_empty() {
            self.record
                .note_error(&format!("the connection to the function broke: {reason}"));
        }
        for reply in calls.into_values() {
            let _ = reply.send(Reply::Broken);
        }
        self.link.changed.notify_one();
    }
}
