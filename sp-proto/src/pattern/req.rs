//! Req: asks, and waits for the reply, in as many contexts as there are conversations.
//!
//! ```text
//!            send                   reply
//!   Idle ───────────▶ Outstanding ─────────▶ Answered
//!    ▲                 │      │                 │
//!    └─────cancel──────┘      └──recv / cancel──┘   (a new send starts over from any state)
//! ```
//! An outstanding request is sent again when its pipe goes away and when `resend_time` has passed, whatever
//! its context does meanwhile.

use crate::pattern::{ContextId, Key, Pattern, Pipes, Refusal, Violation};
use crate::wire::FINAL;
use crate::{Message, Protocol};
use bytes::{Buf, Bytes};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The state of a req socket.
#[derive(Debug)]
pub(crate) struct Req {
    /// `None`: never.
    resend_time: Option<Duration>,
    /// Has the timer been told of a time that is not after any that a request is to be sent again?
    armed: bool,
    contexts: HashMap<ContextId, State>,
    /// The context that waits for the reply with this request id.
    waiting: HashMap<u32, ContextId>,
    /// Outstanding requests that must be sent again as soon as a pipe has room.
    unsent: VecDeque<ContextId>,
    /// The pipes with room, the one whose turn it is first.
    turns: VecDeque<Key>,
    /// Contexts that have something new for their receiver.
    ready: Vec<ContextId>,
    next_context: u64,
    next_request: u32,
}

#[derive(Debug)]
enum State {
    Idle,
    Outstanding(Request),
    Answered(Message),
}

#[derive(Debug)]
struct Request {
    id: u32,
    message: Message,
    /// Where it went last; `None` while it waits in `unsent`.
    sent: Option<(Key, Instant)>,
}

/// What a context's receiver finds.
#[derive(Debug)]
pub(crate) enum Progress {
    /// No request is outstanding.
    Idle,
    /// The reply is not here yet.
    Waiting,
    /// The reply.
    Reply(Message),
}

impl Req {
    /// `first_request` is where request ids start: a random number keeps a restarted process from taking
    /// replies that were meant for its predecessor.
    pub(crate) fn new(resend_time: Option<Duration>, first_request: u32) -> Self {
        Self {
            resend_time: resend_time.filter(|time| !time.is_zero()),
            armed: false,
            contexts: HashMap::new(),
            waiting: HashMap::new(),
            unsent: VecDeque::new(),
            turns: VecDeque::new(),
            ready: Vec::new(),
            next_context: 0,
            next_request: first_request,
        }
    }

    pub(crate) fn open(&mut self) -> ContextId {
        self.next_context += 1;
        let id = ContextId(self.next_context);
        self.contexts.insert(id, State::Idle);
        id
    }

    pub(crate) fn close(&mut self, pipes: &mut Pipes, context: ContextId) {
        self.cancel(pipes, context);
        self.contexts.remove(&context);
    }

    /// Forgets the request of this context; its reply is dropped, now or when it comes.
    pub(crate) fn cancel(&mut self, pipes: &mut Pipes, context: ContextId) {
        let Some(state) = self.contexts.get_mut(&context) else {
            return;
        };
        match std::mem::replace(state, State::Idle) {
            State::Idle => {}
            State::Outstanding(request) => {
                self.waiting.remove(&request.id);
                if request.sent.is_none() {
                    self.unsent.retain(|unsent| *unsent != context);
                }
            }
            State::Answered(_) => pipes.drops.unread += 1,
        }
    }

    /// Sends a request in place of the one before, or gives it back when no pipe has room.
    pub(crate) fn send(
        &mut self,
        pipes: &mut Pipes,
        context: ContextId,
        message: Message,
        now: Instant,
    ) -> Result<Key, Message> {
        self.cancel(pipes, context);
        let Some(key) = self.turns.pop_front() else {
            return Err(message);
        };
        let id = self.next_id();
        self.waiting.insert(id, context);
        self.transmit(pipes, key, id, &message);
        self.contexts.insert(
            context,
            State::Outstanding(Request {
                id,
                message,
                sent: Some((key, now)),
            }),
        );
        Ok(key)
    }

    /// What there is for the receiver of this context.
    pub(crate) fn recv(&mut self, context: ContextId) -> Progress {
        let Some(state) = self.contexts.get_mut(&context) else {
            return Progress::Idle;
        };
        match std::mem::replace(state, State::Idle) {
            State::Idle => Progress::Idle,
            State::Answered(message) => Progress::Reply(message),
            State::Outstanding(request) => {
                *state = State::Outstanding(request);
                Progress::Waiting
            }
        }
    }

    /// Ids are reused after 2^31 requests; one that is still waited for is passed over.
    fn next_id(&mut self) -> u32 {
        loop {
            let id = self.next_request | FINAL;
            self.next_request = self.next_request.wrapping_add(1);
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }

    fn transmit(&mut self, pipes: &mut Pipes, key: Key, id: u32, message: &Message) {
        if pipes.push(key, &id.to_be_bytes(), message.clone().into_bytes()) {
            self.turns.push_back(key);
        }
        if self.resend_time.is_some() && !self.armed {
            self.armed = true;
            self.ready.push(ContextId::TIMER);
        }
    }

    /// The outstanding requests whose last sending `concerns` are to be sent again, the oldest first.
    fn call_back(&mut self, concerns: impl Fn((Key, Instant)) -> bool) {
        let mut called: Vec<_> = self
            .contexts
            .iter_mut()
            .filter_map(|(context, state)| match state {
                State::Outstanding(request) if request.sent.is_some_and(&concerns) => {
                    let (_, at) = request.sent.take()?;
                    Some((at, *context))
                }
                _ => None,
            })
            .collect();
        called.sort_unstable();
        self.unsent.extend(called.into_iter().map(|(_, context)| context));
    }

    /// Sends what must be sent again, as far as there is room.
    fn send_again(&mut self, pipes: &mut Pipes, now: Instant) {
        while !self.unsent.is_empty()
            && let Some(key) = self.turns.pop_front()
        {
            let context = self.unsent.pop_front();
            let Some(State::Outstanding(request)) =
                context.and_then(|context| self.contexts.get_mut(&context))
            else {
                self.turns.push_front(key);
                continue;
            };
            request.sent = Some((key, now));
            let (id, message) = (request.id, request.message.clone());
            self.transmit(pipes, key, id, &message);
        }
    }
}

impl Pattern for Req {
    fn protocol(&self) -> Protocol {
        Protocol::Req
    }

    fn attach(&mut self, pipes: &mut Pipes, key: Key, now: Instant) -> Result<(), Refusal> {
        self.turns.push_back(key);
        self.send_again(pipes, now);
        Ok(())
    }

    fn detach(&mut self, pipes: &mut Pipes, key: Key, now: Instant) {
        self.turns.retain(|turn| *turn != key);
        self.call_back(|(sent_to, _)| sent_to == key);
        self.send_again(pipes, now);
    }

    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        for mut body in frames.drain(..) {
            // Not ours, too late or malformed: dropped. Only a request is worth closing a pipe for.
            let waiting = body.try_get_u32().ok().and_then(|id| self.waiting.remove(&id));
            let Some(context) = waiting else {
                pipes.drops.unexpected += 1;
                continue;
            };
            if let Some(state) = self.contexts.get_mut(&context) {
                let before = std::mem::replace(state, State::Answered(body.into()));
                if matches!(before, State::Outstanding(Request { sent: None, .. })) {
                    self.unsent.retain(|unsent| *unsent != context);
                }
                self.ready.push(context);
            }
        }
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    fn handle_room(&mut self, pipes: &mut Pipes, key: Key, now: Instant) {
        self.turns.push_back(key);
        self.send_again(pipes, now);
    }

    fn needs_timer(&self) -> bool {
        self.resend_time.is_some()
    }

    fn handle_timeout(&mut self, pipes: &mut Pipes, now: Instant) -> Option<Instant> {
        let resend_time = self.resend_time?;
        // While the timer is at it, nobody needs to wake it.
        self.armed = true;
        self.call_back(|(_, at)| now.saturating_duration_since(at) >= resend_time);
        self.send_again(pipes, now);
        let sent = self.contexts.values().filter_map(|state| match state {
            State::Outstanding(request) => request.sent.map(|(_, at)| at),
            _ => None,
        });
        // One that waits for room starts the timer when it goes out.
        let next = sent.min().and_then(|at| at.checked_add(resend_time));
        self.armed = next.is_some();
        next
    }

    fn can_recv(&self) -> bool {
        false
    }

    fn has_one_queue(&self) -> bool {
        false
    }

    fn can_send(&self) -> bool {
        !self.turns.is_empty()
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn pop_ready(&mut self) -> Option<ContextId> {
        self.ready.pop()
    }
}
