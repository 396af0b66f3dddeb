//! Owns the channel of one function in one process: calls go out together with whatever else is queued, results
//! come back in any order, and nobody waits for anybody else. Two tasks per link, which the session owns: one
//! sends, one receives. What is under way is in the [`Flight`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mangrove_protocol::native::control::Validate;
use mangrove_protocol::native::function::{CallWriter, FunctionContext, Results, encode_cancel};
use serde_json::Value;
use sp_proto::{Events, Pair, PipeId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub(in crate::plugin) use super::flight::Reply;
use super::flight::{Arguments, Flight, Leaving};
use super::session::Order;
use super::{BATCH_BYTES, milliseconds};
use crate::config::Portable;
use crate::plugin::record::Record;

/// Groups of calls that may wait to be sent.
const LINE: usize = 256;

/// The most calls in one message: while the plugin works at these, others are on their way to it, and results on their
/// way back.
const MESSAGE: usize = 256;

/// How long a function may be without a connection before it is started again. Dialers come back within this
/// time.
pub(in crate::plugin) const RECONNECT: Duration = Duration::from_secs(3);

/// How long answers may come after a plugin has said that it has stopped a function.
const LATE: Duration = Duration::from_secs(1);

/// Where calls are put in.
#[derive(Debug)]
pub(in crate::plugin) struct Link {
    aggregate: bool,
    /// The first ids of groups of calls.
    line: mpsc::Sender<u64>,
    flight: Mutex<Flight>,
    /// There is room for more calls, or something to cancel.
    changed: Notify,
    orders: mpsc::Sender<Order>,
    /// The plugin has said that it runs the function.
    started: Notify,
    closed: CancellationToken,
    /// It is about to stop.
    retired: AtomicBool,
    /// Nothing is in the plugin any more.
    idle: Notify,
    /// Somebody is at the other end.
    connected: AtomicBool,
    /// Calls that somebody waits for.
    awaited: AtomicUsize,
    /// Calls that were given up since the last result came.
    given_up: AtomicUsize,
}

/// Calls that somebody waits for. Dropped: nobody does any more.
struct Waiting<'a> {
    link: &'a Link,
    first: u64,
    count: usize,
}

impl Waiting<'_> {
    /// What has come of the calls until now, if they were not told yet.
    fn give_up(&self) -> Option<Vec<Reply>> {
        let replies = super::lock(&self.link.flight).give_up(self.first)?;
        let unanswered = replies.iter().filter(|reply| matches!(reply, Reply::GivenUp));
        self.link
            .given_up
            .fetch_add(unanswered.count(), Ordering::Relaxed);
        self.link.changed.notify_one();
        self.link.idle.notify_one();
        Some(replies)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.awaited.fetch_sub(self.count, Ordering::Relaxed);
        // Mostly they were told, and there is nothing to give up.
        self.give_up();
    }
}

impl Link {
    /// Calls the function with each of these arguments and waits for what comes of that, at most until `deadline`. The
    /// replies are in the order of the calls.
    ///
    /// # Cancel safety
    /// The plugin is told that nobody waits; it may have been called or not.
    pub(in crate::plugin) async fn call(
        &self,
        calls: impl Iterator<Item = &[Value]>,
        context: Arc<FunctionContext>,
        deadline: Instant,
    ) -> Vec<Reply> {
        let arguments: Arguments = calls.collect();
        let count = arguments.len();
        let (done, mut told) = oneshot::channel();
        let added = super::lock(&self.flight).add(arguments, context, done);
        let Some(first) = added else {
            return (0..count).map(|_| Reply::NotSent).collect();
        };
        self.awaited.fetch_add(count, Ordering::Relaxed);
        let waiting = Waiting {
            link: self,
            first,
            count,
        };
        let answered = timeout_at(deadline, async {
            // When nobody takes them any more, all groups were told or are about to be.
            let _closed = self.line.send(first).await;
            (&mut told).await
        });
        match answered.await {
            Ok(replies) => replies.unwrap_or_default(),
            // It may have been told this very moment.
            Err(_) => match waiting.give_up() {
                Some(replies) => replies,
                None => told.await.unwrap_or_default(),
            },
        }
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
        !self.closed.is_cancelled() && !self.retired.load(Ordering::Acquire)
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

    /// Takes no more calls; what has not left comes back. Resolves when the plugin has answered the others, or has had its
    /// time for that: a call that takes longer has long been in the plugin, which finishes it before it stops.
    pub(super) async fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        super::lock(&self.flight).close();
        let answered = async {
            while !super::lock(&self.flight).is_idle() {
                self.idle.notified().await;
            }
        };
        let in_time = tokio::time::timeout(LATE, answered);
        let _closed = self.closed.run_until_cancelled(in_time).await;
    }

    /// Ends both tasks.
    pub(super) fn close(&self) {
        self.closed.cancel();
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
    line: mpsc::Receiver<u64>,
    /// Groups that have not left, or not all of them.
    groups: VecDeque<u64>,
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
    let (sender, line) = mpsc::channel(LINE);
    let limits = super::limits(settings);
    let link = Arc::new(Link {
        aggregate,
        line: sender,
        flight: Mutex::default(),
        changed: Notify::new(),
        orders,
        started: Notify::new(),
        closed: CancellationToken::new(),
        connected: AtomicBool::new(false),
        retired: AtomicBool::new(false),
        idle: Notify::new(),
        awaited: AtomicUsize::new(0),
        given_up: AtomicUsize::new(0),
    });
    Parts {
        writer: Writer {
            link: Arc::clone(&link),
            socket: socket.clone(),
            line,
            groups: VecDeque::new(),
            timeout: milliseconds(settings.call_timeout),
            batch: limits.batch.min(MESSAGE),
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
        // However it came to its end: callers look for another link then.
        self.link.close();
        self.line.close();
        // Whoever has put in a call that never left may put it in elsewhere.
        super::lock(&self.link.flight).close();
    }

    async fn send_all(&mut self) {
        let mut queued = Vec::new();
        loop {
            let has_room = super::lock(&self.link.flight).room() > 0;
            if self.groups.is_empty() || !has_room {
                tokio::select! {
                    biased;
                    () = self.link.changed.notified() => {}
                    count = self.line.recv_many(&mut queued, LINE), if self.groups.is_empty() => {
                        if count == 0 {
                            return;
                        }
                        self.groups.extend(queued.drain(..));
                    }
                }
            }
            self.cancel().await;
            if self.send_calls().await.is_err() {
                return;
            }
        }
    }

    /// Sends what is queued, as far as there is room for it.
    async fn send_calls(&mut self) -> Result<(), sp_proto::SendError> {
        let mut writer = CallWriter::default();
        let mut shared: Option<Arc<FunctionContext>> = None;
        while let Some(first) = self.groups.front() {
            let most = self.batch.saturating_sub(writer.len()).max(1);
            let leaving = super::lock(&self.link.flight).take(*first, most);
            let Some(leaving) = leaving else {
                self.groups.pop_front();
                continue;
            };
            let Leaving {
                context,
                arguments,
                places,
                more,
            } = leaving;
            if places.is_empty() {
                // There is no room now.
                break;
            }
            if let Some(other) = shared.take_if(|shared| **shared != *context) {
                self.flush(&mut writer, &other).await?;
            }
            let first = *first;
            for place in places {
                let id = first + place as u64;
                self.push(&mut writer, id, arguments.at(place), &context).await?;
            }
            if writer.len() >= self.batch {
                self.flush(&mut writer, &context).await?;
            }
            if !more {
                self.groups.pop_front();
            }
            shared = Some(context);
        }
        match shared {
            Some(context) => self.flush(&mut writer, &context).await,
            None => Ok(()),
        }
    }

    /// Adds a call to the message, which is sent before or after when it gets too long.
    async fn push(
        &self,
        writer: &mut CallWriter,
        id: u64,
        args: &[u8],
        context: &FunctionContext,
    ) -> Result<(), sp_proto::SendError> {
        writer.push_json(id, args);
        if writer.size() > self.message && writer.len() > 1 {
            writer.undo();
            self.flush(writer, context).await?;
            writer.push_json(id, args);
        }
        if writer.size() > self.message {
            let (found, most) = (writer.size(), self.message);
            writer.undo();
            let error = format!("the call has {found} bytes; at most {most} are allowed");
            super::lock(&self.link.flight).settle([(id, Reply::Error(error))]);
        } else if writer.size() > BATCH_BYTES {
            self.flush(writer, context).await?;
        }
        Ok(())
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
        let cancelled = super::lock(&self.link.flight).take_cancelled();
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
        self.drain(&mut events).await;
        self.break_all("it was stopped");
        self.socket.close().await;
    }

    /// A plugin answers the calls that it has before it says that it has stopped; on their own channel, so these answers may
    /// come a little later.
    async fn drain(&mut self, events: &mut Events) {
        let answers = async {
            while self.pipe.is_some() && !super::lock(&self.link.flight).is_idle() {
                tokio::select! {
                    biased;
                    message = self.socket.recv() => match message {
                        Ok(message) => self.handle(&message),
                        Err(_) => return,
                    },
                    Some(event) = events.recv() => self.handle_event(&event),
                }
            }
        };
        // What has not come then is broken.
        let _late = tokio::time::timeout(LATE, answers).await;
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
        let was_full = {
            let mut flight = super::lock(&self.link.flight);
            let was_full = flight.room() == 0;
            flight.settle(
                read.results
                    .into_iter()
                    .map(|(id, result)| (id, Reply::Result(result))),
            );
            flight.settle(
                read.errors
                    .into_iter()
                    .map(|(id, error)| (id, Reply::Error(error))),
            );
            was_full
        };
        self.link.idle.notify_one();
        if was_full {
            self.link.changed.notify_one();
        }
    }

    /// What was in the plugin when the connection broke.
    fn break_all(&self, reason: &str) {
        let broken = super::lock(&self.link.flight).break_all();
        if broken > 0 {
            self.record
                .note_error(&format!("the connection to the function broke: {reason}"));
        }
        self.link.idle.notify_one();
        self.link.changed.notify_one();
    }
}
