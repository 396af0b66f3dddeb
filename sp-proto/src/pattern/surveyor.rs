//! Surveyor: asks everybody and collects the responses that come in time, in as many contexts as there are
//! surveys.
//!
//! ```text
//!          send                  deadline, told once / cancel
//!   Idle ────────▶ Outstanding ──────────────────────────────▶ Idle     (a new send starts over)
//! ```

use crate::pattern::broadcast::Broadcast;
use crate::pattern::{ContextId, Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::wire::FINAL;
use crate::{Message, Protocol};
use bytes::{Buf, Bytes};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The state of a surveyor socket.
#[derive(Debug)]
pub(crate) struct Surveyor {
    limits: RecvLimits,
    peers: Broadcast,
    /// `None`: no survey is outstanding.
    contexts: HashMap<ContextId, Option<Survey>>,
    /// The context that waits for responses with this survey id.
    waiting: HashMap<u32, ContextId>,
    /// Contexts that have something new for their receiver.
    ready: Vec<ContextId>,
    next_context: u64,
    next_survey: u32,
}

#[derive(Debug)]
struct Survey {
    id: u32,
    /// `None`: too far away to be counted.
    deadline: Option<Instant>,
    responses: VecDeque<Bytes>,
    bytes: usize,
}

/// What a context's receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Responses {
    /// No survey is outstanding.
    Idle,
    /// There may come more.
    Waiting,
    /// The next response.
    Response(Message),
    /// The time is up.
    Ended,
}

impl Surveyor {
    /// `first_survey` is where survey ids start: a random number keeps a restarted process from taking
    /// responses that were meant for its predecessor.
    pub(crate) fn new(limits: RecvLimits, first_survey: u32) -> Self {
        Self {
            limits: RecvLimits {
                messages: limits.messages.max(1),
                bytes: limits.bytes.max(1),
            },
            peers: Broadcast::default(),
            contexts: HashMap::new(),
            waiting: HashMap::new(),
            ready: Vec::new(),
            next_context: 0,
            next_survey: first_survey,
        }
    }

    pub(crate) fn open(&mut self) -> ContextId {
        self.next_context += 1;
        let id = ContextId(self.next_context);
        self.contexts.insert(id, None);
        id
    }

    pub(crate) fn close(&mut self, pipes: &mut Pipes, context: ContextId) {
        self.cancel(pipes, context);
        self.contexts.remove(&context);
    }

    /// Ends the survey of this context; its responses are dropped, those that are here and those that will come.
    fn cancel(&mut self, pipes: &mut Pipes, context: ContextId) {
        if let Some(survey) = self.contexts.get_mut(&context).and_then(Option::take) {
            self.waiting.remove(&survey.id);
            pipes.drops.unread += survey.responses.len() as u64;
        }
    }

    /// Asks everybody who has room, in place of the survey before; gives one of their pipes.
    pub(crate) fn send(
        &mut self,
        pipes: &mut Pipes,
        context: ContextId,
        message: Message,
        time: Duration,
        now: Instant,
    ) -> Option<Key> {
        self.cancel(pipes, context);
        let id = self.next_id();
        self.waiting.insert(id, context);
        let survey = Survey {
            id,
            deadline: now.checked_add(time),
            responses: VecDeque::new(),
            bytes: 0,
        };
        self.contexts.insert(context, Some(survey));
        self.peers
            .send(pipes, &id.to_be_bytes(), &message.into_bytes(), None)
    }

    /// Ids are reused after 2^31 surveys; one that is outstanding is passed over.
    fn next_id(&mut self) -> u32 {
        loop {
            let id = self.next_survey | FINAL;
            self.next_survey = self.next_survey.wrapping_add(1);
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }

    /// What there is for the receiver of this context. At the deadline the survey ends, whatever was not
    /// received by then: when it came, nobody knows.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes, context: ContextId, now: Instant) -> Responses {
        let Some(Some(survey)) = self.contexts.get_mut(&context) else {
            return Responses::Idle;
        };
        if survey.deadline.is_some_and(|deadline| deadline <= now) {
            self.cancel(pipes, context);
            return Responses::Ended;
        }
        match survey.responses.pop_front() {
            Some(body) => {
                survey.bytes -= body.len();
                Responses::Response(body.into())
            }
            None => Responses::Waiting,
        }
    }

    /// When the survey of this context ends; `None` if none is outstanding or it never ends.
    pub(crate) fn deadline(&self, context: ContextId) -> Option<Instant> {
        self.contexts.get(&context)?.as_ref()?.deadline
    }
}

impl Pattern for Surveyor {
    fn protocol(&self) -> Protocol {
        Protocol::Surveyor
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.peers.attach(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.peers.detach(key);
    }

    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        for mut body in frames.drain(..) {
            let context = body.try_get_u32().ok().and_then(|id| self.waiting.get(&id));
            let Some((id, Some(Some(survey)))) = context.map(|id| (*id, self.contexts.get_mut(id))) else {
                // Too late, not ours or malformed.
                pipes.drops.unexpected += 1;
                continue;
            };
            if survey.responses.len() >= self.limits.messages || survey.bytes >= self.limits.bytes {
                pipes.drops.slow_reader += 1;
                continue;
            }
            if survey.responses.is_empty() {
                self.ready.push(id);
            }
            survey.bytes += body.len();
            survey.responses.push_back(body);
        }
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    /// Nobody ever waits for room.
    fn handle_room(&mut self, _: &mut Pipes, _: Key, _: Instant) {}

    fn can_recv(&self) -> bool {
        false
    }

    fn has_one_queue(&self) -> bool {
        false
    }

    fn can_send(&self) -> bool {
        true
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn pop_ready(&mut self) -> Option<ContextId> {
        self.ready.pop()
    }
}
