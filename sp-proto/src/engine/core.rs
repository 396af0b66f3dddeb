//! The shared state of a socket: its pattern and pipes behind one short lock, and the wakers of all who wait.
//!
//! Nothing is awaited, read or written under the lock, and nobody is woken under it.

use crate::engine::events::{Event, PipeInfo, Publisher};
use crate::engine::greeting::Greeted;
use crate::engine::intake::Intake;
use crate::engine::now;
use crate::engine::reading::Reading;
use crate::engine::waiters::Waiters;
use crate::pattern::{ContextId, Key, Pattern, Pipes, Refusal, SendLimits};
use crate::sync::{Mutex, MutexGuard};
use crate::transport::{Settings, Writer};
use crate::wire::Batch;
use crate::{EndpointId, PipeId, Protocol, SocketOptions, Stats};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};
use tokio_util::sync::CancellationToken;

/// A socket without its tasks.
pub(crate) struct Core<P> {
    state: Mutex<State<P>>,
    /// What the socket announces.
    pub(crate) protocol: Protocol,
    pub(crate) options: SocketOptions,
    /// What the transports know of these, and keep from one connection to the next.
    pub(crate) settings: Settings,
    pub(crate) events: Publisher,
    /// Set when the socket is asked to close: no new pipes, and the old ones end once they are flushed.
    pub(crate) closing: CancellationToken,
}

pub(crate) struct State<P> {
    pub(crate) pattern: P,
    pub(crate) pipes: Pipes,
    /// By pipe slot.
    pub(super) ends: Vec<Option<End>>,
    /// The pipes that receivers may read by themselves, the one whose turn it is first.
    pub(super) handed_over: VecDeque<Key>,
    /// Has a receiver taken something since a pipe's task looked?
    pub(super) receiving: bool,
    /// Do receivers that are woken come? Not once they have let a pipe wait, until one takes something again.
    pub(super) prompt: bool,
    pub(crate) senders: Waiters,
    pub(crate) receivers: Waiters,
    /// The pipe that has moved last.
    pub(super) moved: Option<Key>,
    /// The pipe whose task has been asked to look after those who were woken and may not come.
    usher: Option<Key>,
    pub(crate) contexts: HashMap<ContextId, Waker>,
    pub(crate) closed: bool,
    /// Shares of a unit of budget that were used up since one was charged for.
    uncharged: u8,
}

/// Tokio's budget is one unit per operation, 128 per turn of a task. A small message costs so little that several
/// share a unit; a turn is still about a hundred microseconds. More turns would be no kindness to other tasks:
/// with the end of each, tokio wakes another worker.
const SHARES: u8 = 8;

/// The largest message that takes one share, in bytes, and the largest that takes two.
const SMALL: (usize, usize) = (512, 2 * 1024);

/// The engine's side of a pipe.
pub(super) struct End {
    pub(super) info: PipeInfo,
    writer: Arc<Writer>,
    pub(super) reading: Reading,
    /// The pipe's task, while it waits.
    pub(super) task: Option<Waker>,
    /// Those who wait for room in this very pipe.
    writers: Waiters,
    /// What a sender that wrote by itself was told by the connection, which tells it only once.
    failure: Option<io::Error>,
    disconnect: bool,
}

pub(super) fn find(ends: &mut [Option<End>], key: Key) -> Option<&mut End> {
    let end = ends.get_mut(key.slot)?.as_mut();
    end.filter(|end| end.info.id == key.id)
}

/// A pipe that belongs to a socket; leaves it when dropped.
pub(crate) struct Attached<P: Pattern> {
    pub(crate) core: Arc<Core<P>>,
    pub(crate) key: Key,
    /// What the pipe's task keeps to itself.
    pub(crate) intake: Option<Box<Intake>>,
    pub(crate) writer: Arc<Writer>,
    /// Why it will have left, and whether the peer closed it between two messages.
    pub(crate) reason: String,
    pub(crate) is_orderly: bool,
}

/// What a pipe's task is to do next.
pub(crate) enum Plan {
    /// Write this, if there is something, and read, if allowed.
    Work {
        batch: Option<Batch>,
        read: bool,
        /// There may be something to read from this.
        intake: Option<Box<Intake>>,
        /// Look after those who were woken, once they have had time to come.
        ushers: bool,
    },
    /// Somebody asked for its end.
    Stop(Stop),
}

/// Why a pipe ends at our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("the pipe has left its socket")]
    Gone,
    #[error("disconnected")]
    Disconnected,
    #[error("the socket was closed")]
    Closed,
}

/// Those to be woken once the lock is released. The first needs no allocation: mostly there is no second.
#[derive(Default)]
#[must_use]
pub(crate) struct Wakes {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakes {
    #[inline]
    pub(crate) fn wake(self) {
        if let Some(first) = self.first {
            first.wake();
            self.others.into_iter().for_each(Waker::wake);
        }
    }

    fn extend(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            match self.first {
                None => self.first = Some(waker),
                Some(_) => self.others.push(waker),
            }
        }
    }
}

impl<P: Pattern> State<P> {
    pub(super) fn end(&mut self, key: Key) -> Option<&mut End> {
        find(&mut self.ends, key)
    }

    pub(crate) fn writer(&mut self, key: Key) -> Option<Arc<Writer>> {
        self.end(key).map(|end| Arc::clone(&end.writer))
    }

    pub(crate) fn writers(&mut self, key: Key) -> Option<&mut Waiters> {
        self.end(key).map(|end| &mut end.writers)
    }

    /// Is a unit of the task's budget due for a message of this length?
    pub(crate) fn charge(&mut self, len: usize) -> bool {
        self.uncharged += match len {
            len if len <= SMALL.0 => 1,
            len if len <= SMALL.1 => 2,
            _ => SHARES,
        };
        let due = self.uncharged >= SHARES;
        if due {
            self.uncharged = 0;
        }
        due
    }

    /// Who has something to do after a change. Every change ends with this.
    #[inline]
    pub(crate) fn settle(&mut self) -> Wakes {
        // Under load mostly nobody has.
        let quiet = !self.pipes.has_signals()
            && !self.pattern.has_ready()
            && self.receivers.is_empty()
            && self.senders.is_empty();
        if quiet {
            Wakes::default()
        } else {
            self.settle_all()
        }
    }

    fn settle_all(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        while let Some(key) = self.pipes.pop_signal() {
            wakes.extend(self.end(key).and_then(|end| end.task.take()));
        }
        while let Some(context) = self.pattern.pop_ready() {
            wakes.extend(self.contexts.remove(&context));
        }
        self.wake_first(&mut wakes);
        self.call_usher(&mut wakes);
        wakes
    }

    fn wake_first(&mut self, wakes: &mut Wakes) {
        if !self.receivers.is_empty() && self.can_recv() {
            wakes.extend(self.receivers.wake_first());
        }
        if !self.senders.is_empty() && self.pattern.can_send() {
            wakes.extend(self.senders.wake_first());
        }
    }

    /// What was handed over is as good as queued: whoever waits may have looked before.
    fn can_recv(&self) -> bool {
        self.pattern.can_recv() || !self.handed_over.is_empty()
    }

    /// Is something there, for others than the one who was woken for it and may not come?
    fn is_held_up(&self) -> bool {
        self.receivers.is_held_up() && self.can_recv() || self.senders.is_held_up() && self.pattern.can_send()
    }

    /// Sees to it that nobody waits for ever behind a stream or sink that was woken and is left alone. The task of
    /// a pipe, of which there mostly is one, looks in a later turn, so that those who do come have come by then.
    fn call_usher(&mut self, wakes: &mut Wakes) {
        if self.usher.is_some() || !self.is_held_up() {
            return;
        }
        let mut ends = self.ends.iter().enumerate();
        let any = || {
            ends.find_map(|(slot, end)| {
                end.as_ref().map(|end| Key {
                    slot,
                    id: end.info.id,
                })
            })
        };
        self.usher = self.moved.or_else(any);
        match self.usher {
            Some(key) => wakes.extend(self.end(key).and_then(|end| end.task.take())),
            None => {
                while self.is_held_up() {
                    self.look(wakes);
                }
            }
        }
    }

    fn look(&mut self, wakes: &mut Wakes) {
        if self.can_recv() {
            self.receivers.look();
        }
        if self.pattern.can_send() {
            self.senders.look();
        }
        self.wake_first(wakes);
    }

    /// Before somebody waits who does not change anything.
    pub(crate) fn look_after_waiters(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        self.call_usher(&mut wakes);
        wakes
    }

    fn wake_all(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        wakes.extend(self.senders.wake_all());
        wakes.extend(self.receivers.wake_all());
        wakes.extend(self.contexts.drain().map(|(_, waker)| waker));
        for end in self.ends.iter_mut().flatten() {
            wakes.extend(end.task.take());
            wakes.extend(end.writers.wake_all());
        }
        wakes
    }
}

impl<P: Pattern> Core<P> {
    pub(crate) fn new(pattern: P, options: SocketOptions) -> Self {
        let limits = SendLimits {
            messages: options.send_queue,
            bytes: options.send_queue_bytes,
        };
        let protocol = pattern.protocol();
        let state = State {
            pattern,
            pipes: Pipes::new(limits),
            ends: Vec::new(),
            handed_over: VecDeque::new(),
            receiving: false,
            prompt: true,
            senders: Waiters::default(),
            receivers: Waiters::default(),
            moved: None,
            usher: None,
            contexts: HashMap::new(),
            closed: false,
            uncharged: 0,
        };
        Self {
            state: Mutex::new(state),
            protocol,
            settings: options.transport(),
            options,
            events: Publisher::new(),
            closing: CancellationToken::new(),
        }
    }

    /// A panic under the lock is a bug, but one that must not spread: the state is consistent between calls.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes those whom that concerns.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut State<P>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        result
    }

    /// Makes a greeted connection a pipe of this socket.
    pub(crate) fn attach(
        self: &Arc<Self>,
        greeted: Greeted,
        endpoint: Option<EndpointId>,
    ) -> Result<Attached<P>, Unattached> {
        let Greeted {
            link,
            peer,
            peer_address,
            credentials,
            recv_max_size,
        } = greeted;
        let id = PipeId::next();
        let info = PipeInfo {
            id,
            endpoint,
            peer,
            peer_address,
            credentials,
        };
        self.options
            .admission
            .check(&info)
            .map_err(Unattached::NotAdmitted)?;
        let framing = link.framing();
        let (reader, writer) = link.split()?;
        let limit = recv_max_size.unwrap_or(self.options.recv_max_size);
        let mut own = Some(Box::new(Intake::new(reader, framing, limit)));
        let shared = !writer.needs_reader();
        let writer = Arc::new(writer);
        let mut end = End {
            info: info.clone(),
            writer: Arc::clone(&writer),
            reading: Reading::Own,
            task: None,
            writers: Waiters::default(),
            failure: None,
            disconnect: false,
        };
        let key = self.with(|state| {
            if state.closed {
                return Err(Unattached::Closed);
            }
            let key = state.pipes.insert(id, framing);
            if let Err(refusal) = state.pattern.attach(&mut state.pipes, key, now()) {
                state.pipes.remove(key);
                return Err(Unattached::Refused(refusal));
            }
            if state.ends.len() <= key.slot {
                state.ends.resize_with(key.slot + 1, || None);
            }
            if shared && let Some(intake) = own.take() {
                end.reading = Reading::Task(intake);
            }
            if let Some(slot) = state.ends.get_mut(key.slot) {
                *slot = Some(end);
            }
            Ok(key)
        })?;
        self.events.publish(Event::PipeAdded(info));
        let reason = "its endpoint or socket was closed".to_owned();
        Ok(Attached {
            core: Arc::clone(self),
            key,
            intake: own,
            writer,
            reason,
            is_orderly: false,
        })
    }

    fn detach(&self, key: Key, reason: String, is_orderly: bool) {
        let mut state = self.lock();
        if !state.pipes.remove(key) {
            return;
        }
        let end = state.ends.get_mut(key.slot).and_then(Option::take);
        let State { pattern, pipes, .. } = &mut *state;
        pattern.detach(pipes, key, now());
        state.handed_over.retain(|other| *other != key);
        state.moved = state.moved.filter(|moved| *moved != key);
        state.usher = state.usher.filter(|usher| *usher != key);
        let mut wakes = state.settle();
        drop(state);
        let gone = end.map(|mut end| {
            wakes.extend(end.writers.wake_all());
            end.info
        });
        wakes.wake();
        if let Some(pipe) = gone {
            self.events.publish(Event::PipeRemoved {
                pipe,
                reason,
                is_orderly,
            });
        }
    }

    /// What the pipe's task is to do; it is woken when that changes. Does it `hold` the receiving half?
    pub(crate) fn plan(&self, key: Key, cx: &Context<'_>, holds: bool) -> Plan {
        let mut state = self.lock();
        let State {
            pattern,
            pipes,
            closed,
            ..
        } = &mut *state;
        let batch = pipes.begin(key);
        let flushed = batch.is_none() && pipes.is_flushed(key);
        let read = !*closed && pattern.may_read(key);
        let closed = *closed;
        let Some(end) = state.end(key) else {
            return Plan::Stop(Stop::Gone);
        };
        if end.disconnect {
            return Plan::Stop(Stop::Disconnected);
        }
        if !end.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            end.task = Some(cx.waker().clone());
        }
        if closed && flushed {
            return Plan::Stop(Stop::Closed);
        }
        let intake = if read && !holds {
            state.claim(key, false)
        } else {
            None
        };
        Plan::Work {
            batch,
            read,
            intake,
            ushers: state.usher == Some(key),
        }
    }

    /// The pipe's task looks after those who were woken.
    pub(crate) fn usher(&self, key: Key) {
        let mut state = self.lock();
        if state.usher != Some(key) {
            return;
        }
        state.usher = None;
        let mut wakes = Wakes::default();
        state.look(&mut wakes);
        state.call_usher(&mut wakes);
        drop(state);
        wakes.wake();
    }

    /// Ends a write of `batch`, of which nothing or a part may be left.
    pub(crate) fn end_write(&self, key: Key, batch: Batch, driver: bool) {
        let mut state = self.lock();
        let State {
            pattern,
            pipes,
            closed,
            ..
        } = &mut *state;
        let messages = if batch.is_empty() {
            batch.messages()
        } else {
            usize::MAX
        };
        let room = pipes.end(key, batch);
        if driver {
            pipes.note_flush(key, messages);
        } else if *closed || !pipes.is_flushed(key) {
            // The driver finishes what the sender has begun, and may have waited for that to end the pipe.
            pipes.signal(key);
        }
        if room {
            pattern.handle_room(pipes, key, now());
            state.moved = Some(key);
        }
        let mut wakes = state.settle();
        if room && let Some(end) = state.end(key) {
            wakes.extend(end.writers.wake_all());
        }
        drop(state);
        wakes.wake();
    }

    /// Keeps why a sender could not write, for whoever ends the pipe.
    #[cold]
    pub(crate) fn note_failure(&self, key: Key, error: io::Error) {
        if let Some(end) = self.lock().end(key) {
            end.failure = Some(error);
        }
    }

    pub(crate) fn take_failure(&self, key: Key) -> Option<io::Error> {
        self.lock().end(key)?.failure.take()
    }

    pub(crate) fn pipes(&self) -> Vec<PipeInfo> {
        let mut pipes: Vec<_> = self
            .lock()
            .ends
            .iter()
            .flatten()
            .map(|end| end.info.clone())
            .collect();
        pipes.sort_unstable_by_key(|info| info.id);
        pipes
    }

    /// What has gone through the socket so far.
    pub(crate) fn stats(&self) -> Stats {
        let (mut stats, writers) = {
            let state = self.lock();
            let ends = state.ends.iter().flatten();
            let mut writers: Vec<_> = ends
                .filter(|end| end.writer.tells_unread())
                .map(|end| (end.info.id, Arc::clone(&end.writer)))
                .collect();
            let stats = state.pipes.stats();
            drop(state);
            writers.sort_unstable_by_key(|(id, _)| *id);
            (stats, writers)
        };
        for pipe in &mut stats.pipes {
            let writer = writers.binary_search_by_key(&pipe.pipe, |(id, _)| *id).ok();
            let writer = writer.and_then(|at| writers.get(at));
            pipe.unread = writer.and_then(|(_, writer)| writer.unread());
        }
        stats
    }

    /// Asks the pipe's task to end it.
    pub(crate) fn disconnect(&self, pipe: PipeId) {
        let waker = self
            .lock()
            .ends
            .iter_mut()
            .flatten()
            .find(|end| end.info.id == pipe)
            .and_then(|end| {
                end.disconnect = true;
                end.task.take()
            });
        waker.into_iter().for_each(Waker::wake);
    }

    /// Starts the end: senders and receivers are told, pipes flush and end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        let mut state = self.lock();
        state.closed = true;
        let wakes = state.wake_all();
        drop(state);
        wakes.wake();
    }
}

/// Why a connection did not become a pipe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unattached {
    #[error("the socket is closed")]
    Closed,
    #[error("{0}")]
    NotAdmitted(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the system cannot watch the connection: {0}")]
    Io(#[from] io::Error),
}

impl<P: Pattern> Drop for Attached<P> {
    fn drop(&mut self) {
        self.core
            .detach(self.key, std::mem::take(&mut self.reason), self.is_orderly);
    }
}
