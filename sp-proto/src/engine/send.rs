//! Sending and receiving: futures that try, wait their turn, and leave the queue when they are dropped.

use crate::engine::core::{Core, State};
use crate::engine::waiters::{Place, Ticket, Waiters};
use crate::pattern::{ContextId, Key, Pattern};
use crate::sync::MutexGuard;
use crate::{Message, RecvError, SendError, SendErrorKind};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::coop;
use tokio::time::Sleep;

/// What came of an attempt to send.
pub(crate) enum Attempt {
    /// Queued, on this pipe among others; or dropped as the pattern has it, when there is none.
    Sent(Option<Key>),
    /// Nobody has room.
    Full(Message),
    /// There is no use in waiting.
    Failed(SendErrorKind, Message),
}

impl From<Result<Key, Message>> for Attempt {
    fn from(result: Result<Key, Message>) -> Self {
        match result {
            Ok(key) => Self::Sent(Some(key)),
            Err(message) => Self::Full(message),
        }
    }
}

/// One way to get rid of a message.
pub(crate) trait Sends<P: Pattern>: Unpin {
    fn attempt(&mut self, state: &mut State<P>, message: Message) -> Attempt;

    /// The queue to wait in; `None` when what was waited for is gone.
    fn queue<'a>(&self, state: &'a mut State<P>) -> Option<&'a mut Waiters> {
        Some(&mut state.senders)
    }

    /// Must those who came first go first? Not if each waits for a pipe of its own.
    const IN_TURN: bool = true;
}

/// A message on its way to a pipe. Dropped before it is ready, the message is not sent.
///
/// A future of its own and no `async fn` around another: every layer of those would move the message once
/// more, which costs as much as queueing it.
pub(crate) struct Sending<'a, P: Pattern, S: Sends<P>> {
    core: &'a Core<P>,
    way: S,
    message: Option<Message>,
    ticket: Option<Ticket>,
    place: Place,
    /// Begins with the first wait.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<P: Pattern, S: Sends<P>> Sending<'_, P, S> {
    /// What becomes of its place in the queue.
    pub(crate) fn with(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}

impl<P: Pattern, S: Sends<P>> Future for Sending<'_, P, S> {
    type Output = Result<(), SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        ready!(poll_budget(cx));
        let Some(message) = this.message.take() else {
            return Poll::Pending;
        };
        let len = message.len();
        let mut state = this.core.lock();
        let attempt = if state.closed {
            Attempt::Failed(SendErrorKind::Closed, message)
        } else if S::IN_TURN
            && !this
                .way
                .queue(&mut state)
                .is_none_or(|queue| queue.is_turn(this.ticket))
        {
            Attempt::Full(message)
        } else {
            this.way.attempt(&mut state, message)
        };
        match attempt {
            Attempt::Sent(key) => {
                this.leave(&mut state);
                let charge = state.charge(len);
                let written = this.core.transmit(state, key);
                if charge || written {
                    spend(cx);
                }
                Poll::Ready(Ok(()))
            }
            Attempt::Failed(kind, message) => {
                this.leave(&mut state);
                let wakes = state.settle();
                drop(state);
                wakes.wake();
                Poll::Ready(Err(SendError { message, kind }))
            }
            Attempt::Full(message) => {
                if let Some(queue) = this.way.queue(&mut state) {
                    queue.wait(&mut this.ticket, this.place, cx.waker());
                }
                // The one in front may have been woken long ago.
                let wakes = state.look_after_waiters();
                drop(state);
                wakes.wake();
                match poll_limit(&mut this.limit, this.core.options.send_timeout, cx) {
                    Poll::Ready(()) => Poll::Ready(Err(SendError {
                        message,
                        kind: SendErrorKind::TimedOut,
                    })),
                    Poll::Pending => {
                        this.message = Some(message);
                        Poll::Pending
                    }
                }
            }
        }
    }
}

/// Has the time limit of somebody who waits passed?
fn poll_limit(
    passed: &mut Option<Pin<Box<Sleep>>>,
    limit: Option<Duration>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match (&mut *passed, limit) {
        (None, None) => Poll::Pending,
        (Some(sleep), _) => sleep.as_mut().poll(cx),
        (None, Some(limit)) => passed
            .insert(Box::pin(tokio::time::sleep(limit)))
            .as_mut()
            .poll(cx),
    }
}

/// Is there something left of the task's budget? Else it is woken once there is.
fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    if coop::has_budget_remaining() {
        Poll::Ready(())
    } else {
        coop::poll_proceed(cx).map(drop)
    }
}

/// Spends one unit of the task's budget.
fn spend(cx: &mut Context<'_>) {
    if let Poll::Ready(unit) = coop::poll_proceed(cx) {
        unit.made_progress();
    }
}

impl<P: Pattern, S: Sends<P>> Sending<'_, P, S> {
    fn leave(&mut self, state: &mut State<P>) {
        match self.way.queue(state) {
            Some(queue) => queue.leave(&mut self.ticket),
            None => self.ticket = None,
        }
    }
}

impl<P: Pattern, S: Sends<P>> Drop for Sending<'_, P, S> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            // Whoever comes next may have been waiting for this one to go.
            let core = self.core;
            core.with(|state| self.leave(state));
        }
    }
}

/// Something on its way from a pipe. Dropped before it is ready, nothing is taken.
pub(crate) struct Receiving<'a, P: Pattern, F> {
    core: &'a Core<P>,
    take: F,
    ticket: Option<Ticket>,
    place: Place,
    /// Begins with the first wait.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<P: Pattern, F> Receiving<'_, P, F> {
    /// What becomes of its place in the queue.
    pub(crate) fn with(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}

impl<P: Pattern, T, F: FnMut(&mut State<P>) -> Option<T> + Unpin> Future for Receiving<'_, P, F> {
    type Output = Result<T, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        ready!(poll_budget(cx));
        let state = this.core.lock();
        let (mut state, result) = if state.closed {
            (state, Some(Err(RecvError::Closed)))
        } else {
            let (state, taken) = this.core.take_or_read(state, &mut this.take);
            // Who reads has no lock, and is not told of a close in that time.
            let closed = state.closed.then_some(Err(RecvError::Closed));
            (state, taken.map(Ok).or(closed))
        };
        let Some(result) = result else {
            state.receivers.wait(&mut this.ticket, this.place, cx.waker());
            let wakes = state.settle();
            drop(state);
            wakes.wake();
            let limit = poll_limit(&mut this.limit, this.core.options.recv_timeout, cx);
            return limit.map(|()| Err(RecvError::TimedOut));
        };
        state.receivers.leave(&mut this.ticket);
        let charge = state.charge(0);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        if charge {
            spend(cx);
        }
        Poll::Ready(result)
    }
}

impl<P: Pattern, F> Drop for Receiving<'_, P, F> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.core.with(|state| state.receivers.leave(&mut self.ticket));
        }
    }
}

impl<P: Pattern> Core<P> {
    /// Sends, waiting for room at most as long as the options say.
    pub(crate) fn send<S: Sends<P>>(&self, way: S, message: Message) -> Sending<'_, P, S> {
        Sending {
            core: self,
            way,
            message: Some(message),
            ticket: None,
            place: Place::Kept,
            limit: None,
        }
    }

    /// Sends if that needs no waiting.
    pub(crate) fn try_send<S: Sends<P>>(&self, mut way: S, message: Message) -> Result<(), SendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SendError {
                message,
                kind: SendErrorKind::Closed,
            });
        }
        if S::IN_TURN
            && let Some(queue) = way.queue(&mut state)
            && !queue.is_turn(None)
        {
            queue.refuse();
            // The one in front may have been woken long ago.
            let wakes = state.look_after_waiters();
            drop(state);
            wakes.wake();
            return Err(SendError {
                message,
                kind: SendErrorKind::WouldBlock,
            });
        }
        match way.attempt(&mut state, message) {
            Attempt::Sent(key) => {
                self.transmit(state, key);
                Ok(())
            }
            Attempt::Full(message) => Err(SendError {
                message,
                kind: SendErrorKind::WouldBlock,
            }),
            Attempt::Failed(kind, message) => Err(SendError { message, kind }),
        }
    }

    /// Receives, waiting at most as long as the options say.
    pub(crate) fn recv<T, F>(&self, take: F) -> Receiving<'_, P, F>
    where
        F: FnMut(&mut State<P>) -> Option<T> + Unpin,
    {
        Receiving {
            core: self,
            take,
            ticket: None,
            place: Place::Kept,
            limit: None,
        }
    }

    /// Receives in a context, whose one receiver is the caller, waiting at most as long as the options say.
    pub(crate) async fn recv_in<T>(
        &self,
        context: ContextId,
        mut take: impl FnMut(&mut State<P>) -> Option<T>,
    ) -> Result<T, RecvError> {
        let receiving = poll_fn(|cx| {
            let budget = ready!(coop::poll_proceed(cx));
            self.with(|state| {
                let result = if state.closed {
                    Err(RecvError::Closed)
                } else if let Some(taken) = take(state) {
                    Ok(taken)
                } else {
                    state.contexts.insert(context, cx.waker().clone());
                    return Poll::Pending;
                };
                budget.made_progress();
                Poll::Ready(result)
            })
        });
        with_limit(self.options.recv_timeout, receiving).await
    }

    /// Receives if there is something now.
    pub(crate) fn try_recv<T>(
        &self,
        take: impl FnMut(&mut State<P>) -> Option<T>,
    ) -> Result<Option<T>, RecvError> {
        let state = self.lock();
        if state.closed {
            return Err(RecvError::Closed);
        }
        let (mut state, taken) = self.take_or_read(state, take);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        Ok(taken)
    }

    /// After a message was queued on a pipe: writes what the pipe has queued if it is the caller's turn, else
    /// leaves it to the pipe's task. Says whether it has written.
    fn transmit(&self, mut state: MutexGuard<'_, State<P>>, key: Option<Key>) -> bool {
        let direct = key.and_then(|key| {
            let batch = state.pipes.begin_direct(key)?;
            Some((key, batch, state.writer(key)?))
        });
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        let Some((key, mut batch, writer)) = direct else {
            return false;
        };
        // The pipe's task cannot write either, and ends the pipe. But a reset looks to it like an end in order.
        if let Err(error) = writer.try_write(&mut batch)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.note_failure(key, error);
        }
        self.end_write(key, batch, false);
        true
    }
}

/// Waits for `receiving` at most this long.
async fn with_limit<T>(
    limit: Option<Duration>,
    receiving: impl Future<Output = Result<T, RecvError>>,
) -> Result<T, RecvError> {
    match limit {
        None => receiving.await,
        Some(limit) => tokio::time::timeout(limit, receiving)
            .await
            .unwrap_or(Err(RecvError::TimedOut)),
    }
}
