//! Owns the life of one plugin: when its process is started and stopped, which symbols have to run in it,
//! which command is sent next. Pure: it knows no process, no socket and no clock. The worker turns everything
//! that happens into an [`Event`] and carries out the returned [`Action`]s.
//!
//! ```text
//! before     what happens                             after
//! ─────────  ───────────────────────────────────────  ──────────────────────────────────────────────
//! Stopped    Start                                    Starting: spawn
//! Starting   first message                            Running
//!            the process ends or cannot be spawned    Waiting; Failed when it was one failure too many
//!            no message within the start limit        Stopping, then Waiting or Failed
//! Running    the process ends                         Waiting or Failed
//!            no control connection for as long        Stopping, then Waiting or Failed
//! Waiting    its time has come                        Starting: spawn
//! Stopping   the grace is over                        Stopping: kill
//!            the process ends                         what was to follow
//! any        Stop                                     Stopping: terminate; without a process Stopped
//! Failed     Start                                    Starting: spawn
//! ```
//!
//! Symbols are level-triggered: a use says what is wanted, and whenever the plugin's turn allows a command
//! the next difference between wanted and running is sent. So a new process gets everything again without a
//! list of commands.

mod uses;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mangrove_protocol::control::{Command, Request, Symbol};
use mangrove_protocol::manifest::Manifest;

use super::backoff::Backoff;
use super::status::State;
use super::turn::{Heard, Turn};
pub(super) use uses::UseId;
use uses::{Order, Uses, Verb};

/// The time limits of one plugin.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// From the start of the process to its first message.
    pub(super) start: Duration,
    /// From a command to its answer.
    pub(super) command: Duration,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
}

/// Something happened.
#[derive(Clone, Debug)]
pub(super) enum Event<P> {
    /// It shall run, as this manifest says.
    Start(Arc<Manifest>, Limits),
    /// It shall not run, for this reason.
    Stop(String),
    /// The process could not be started.
    SpawnFailed(String),
    /// The process has ended, in this way.
    Exited(String),
    /// The plugin sent something on its control channel: the pipe, the id of the request, what it says.
    Message(P, u32, Request),
    /// A control connection is gone.
    Gone(P),
    /// Somebody wants a symbol to run.
    Open(UseId, Symbol),
    /// Nobody wants it any more.
    Close(UseId),
    /// A function that should be running has no connection.
    Silent(UseId),
    /// The time that [`Lifecycle::deadline`] named has come.
    Tick,
}

/// What has to be done. In the given order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Start the process. A failure is reported at once by [`Event::SpawnFailed`].
    Spawn,
    /// Ask the process group to end.
    Terminate,
    /// End the process group.
    Kill,
    /// Reply to the newest control message with this.
    Send(Command),
    /// The use runs for the first time.
    Opened(UseId),
    /// The use did not come to run, and is forgotten.
    Refused(UseId, Refusal),
    /// The use ran and cannot go on. It is forgotten.
    Ended(UseId, Refusal),
    /// The use that was closed no longer runs.
    Closed(UseId),
}

/// Why a symbol does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The plugin answered with this text.
    Plugin(String),
    /// The plugin did not answer in time.
    TimedOut(Duration),
    /// The plugin does not run.
    Down(State, String),
    /// The new version of the plugin no longer defines it.
    Undefined(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(text) | Self::Undefined(text) => f.write_str(text),
            Self::TimedOut(limit) => write!(f, "the plugin has not answered within {limit:?}"),
            Self::Down(state, reason) => write!(f, "the plugin is {state}: {reason}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Phase {
    Stopped(String),
    Starting {
        since: Instant,
    },
    Running {
        since: Instant,
        disconnected: Option<Instant>,
    },
    Waiting {
        until: Instant,
        reason: String,
    },
    Stopping {
        kill_at: Option<Instant>,
        then: Then,
    },
    Failed(String),
}

/// What follows when the process that is being stopped has ended.
#[derive(Clone, Debug)]
enum Then {
    Stop(String),
    Start,
    Fail { reason: String, up: Duration },
}

/// What was sent and not yet answered.
#[derive(Clone, Debug)]
struct Outstanding {
    order: Order,
    command: Command,
    deadline: Instant,
}

/// The life of one plugin. `P` is the id of a control pipe.
#[derive(Debug)]
pub(super) struct Lifecycle<P> {
    limits: Limits,
    version: String,
    phase: Phase,
    backoff: Backoff,
    random: fastrand::Rng,
    restarts: u32,
    uses: Uses,
    turn: Turn<P>,
    outstanding: Option<Outstanding>,
    /// Which command was given up; until the plugin says anything.
    unanswered: Option<String>,
}

impl<P: Copy + Ord> Lifecycle<P> {
    /// A plugin that is not wanted yet. `seed` decides the jitter of its restarts.
    pub(super) fn new(backoff: Backoff, seed: u64) -> Self {
        Self {
            limits: Limits {
                start: Duration::ZERO,
                command: Duration::ZERO,
                grace: Duration::ZERO,
            },
            version: String::new(),
            phase: Phase::Stopped("not started".to_owned()),
            backoff,
            random: fastrand::Rng::with_seed(seed),
            restarts: 0,
            uses: Uses::default(),
            turn: Turn::Absent,
            outstanding: None,
            unanswered: None,
        }
    }

    /// Decides what `event`, at `now`, leads to.
    pub(super) fn handle(&mut self, event: Event<P>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start(manifest, limits) => self.handle_start(&manifest, limits, now, &mut actions),
            Event::Stop(reason) => self.handle_stop(reason, now, &mut actions),
            Event::SpawnFailed(reason) => {
                if matches!(self.phase, Phase::Starting { .. }) {
                    self.fail(reason, Duration::ZERO, now, &mut actions);
                }
            }
            Event::Exited(how) => self.handle_exited(how, now, &mut actions),
            Event::Message(pipe, id, request) => self.handle_message(pipe, id, request, now, &mut actions),
            Event::Gone(pipe) => self.handle_gone(pipe, now, &mut actions),
            Event::Open(id, symbol) => match self.refusal() {
                Some(refusal) => actions.push(Action::Refused(id, refusal)),
                None => self.uses.open(id, symbol),
            },
            Event::Close(id) => {
                let under_way = self.outstanding.as_ref().is_some_and(|sent| sent.order.id == id);
                if self.uses.close(id, under_way) {
                    actions.push(Action::Closed(id));
                }
            }
            Event::Silent(id) => self.uses.note_silent(id),
            Event::Tick => self.handle_tick(now, &mut actions),
        }
        self.send_next(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped(_) | Phase::Failed(_) => None,
            Phase::Starting { since } => Some(since + self.limits.start),
            Phase::Running { disconnected, .. } => {
                let command = self.outstanding.as_ref().map(|sent| sent.deadline);
                let silence = disconnected.map(|since| since + self.limits.start);
                command.into_iter().chain(silence).min()
            }
            Phase::Waiting { until, .. } => Some(until),
            Phase::Stopping { kill_at, .. } => kill_at,
        }
    }

    /// One word and one reason; the reason is empty when all is well.
    pub(super) fn status(&self) -> (State, String) {
        match &self.phase {
            Phase::Stopped(reason) => (State::Stopped, reason.clone()),
            Phase::Starting { .. }
            | Phase::Stopping {
                then: Then::Start, ..
            } => (State::Starting, String::new()),
            Phase::Running {
                disconnected: Some(_),
                ..
            } => (State::Unhealthy, "its control connection is gone".to_owned()),
            Phase::Running { .. } => match &self.unanswered {
                Some(command) => (
                    State::Unhealthy,
                    format!("it has not answered the command {command}"),
                ),
                None => (State::Running, String::new()),
            },
            Phase::Waiting { reason, .. }
            | Phase::Stopping {
                then: Then::Fail { reason, .. },
                ..
            } => (State::Restarting, reason.clone()),
            Phase::Stopping {
                then: Then::Stop(reason),
                ..
            } => (State::Stopped, format!("{reason}; ending")),
            Phase::Failed(reason) => (State::Failed, reason.clone()),
        }
    }

    /// How often a failed process was started again.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Neither a process nor the wish for one.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Stopped(_) | Phase::Failed(_))
    }

    /// How many uses are open.
    pub(super) fn uses(&self) -> usize {
        self.uses.len()
    }

    fn handle_start(&mut self, manifest: &Manifest, limits: Limits, now: Instant, actions: &mut Vec<Action>) {
        self.limits = limits;
        self.version.clone_from(&manifest.version);
        for (id, symbol) in self.uses.retain_defined(manifest) {
            let text = format!("version {} no longer defines \"{symbol}\"", self.version);
            actions.push(Action::Ended(id, Refusal::Undefined(text)));
        }
        self.backoff.reset();
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Waiting { .. } => self.spawn(now, actions),
            Phase::Stopping { then, .. } => *then = Then::Start,
            Phase::Starting { .. } | Phase::Running { .. } => {}
        }
    }

    fn handle_stop(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Waiting { .. } => {
                self.phase = Phase::Stopped(reason);
                self.refuse_waiting(actions);
            }
            Phase::Stopping { then, .. } => *then = Then::Stop(reason),
            Phase::Starting { .. } | Phase::Running { .. } => {
                self.terminate(Then::Stop(reason), now, actions);
            }
        }
    }

    fn handle_exited(&mut self, how: String, now: Instant, actions: &mut Vec<Action>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Stopped(String::new()));
        self.turn = Turn::Absent;
        self.outstanding = None;
        self.unanswered = None;
        actions.extend(self.uses.handle_exited().into_iter().map(Action::Closed));
        match phase {
            Phase::Starting { .. } => {
                self.fail(
                    format!("it ended before its handshake: {how}"),
                    Duration::ZERO,
                    now,
                    actions,
                );
            }
            Phase::Running { since, .. } => {
                self.fail(
                    format!("it ended: {how}"),
                    now.saturating_duration_since(since),
                    now,
                    actions,
                );
            }
            Phase::Stopping {
                then: Then::Fail { reason, up },
                ..
            } => self.fail(reason, up, now, actions),
            Phase::Stopping {
                then: Then::Start, ..
            } => self.spawn(now, actions),
            Phase::Stopping {
                then: Then::Stop(reason),
                ..
            } => {
                self.phase = Phase::Stopped(reason);
                self.refuse_waiting(actions);
            }
            phase @ (Phase::Stopped(_) | Phase::Waiting { .. } | Phase::Failed(_)) => self.phase = phase,
        }
    }

    fn handle_message(
        &mut self,
        pipe: P,
        id: u32,
        request: Request,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match &mut self.phase {
            // Whatever its first message says: the published hosts take anything for the handshake.
            Phase::Starting { .. } => {
                self.phase = Phase::Running {
                    since: now,
                    disconnected: None,
                }
            }
            Phase::Running { disconnected, .. } => *disconnected = None,
            _ => return,
        }
        let heard = self.turn.handle_message(pipe, id, request == Request::Handshake);
        if heard != Heard::Ignored {
            self.unanswered = None;
        }
        match heard {
            Heard::Again => {
                if let Some(sent) = &self.outstanding {
                    actions.push(Action::Send(sent.command.clone()));
                    self.turn.handle_sent();
                }
            }
            Heard::Answer => {
                let verdict = match request {
                    Request::Failed(text) => Err(Refusal::Plugin(text)),
                    Request::Done | Request::Handshake => Ok(()),
                };
                self.settle(verdict, actions);
            }
            Heard::Lost => self.interrupt(actions),
            Heard::Ready | Heard::Late | Heard::Ignored => {}
        }
    }

    fn handle_gone(&mut self, pipe: P, now: Instant, actions: &mut Vec<Action>) {
        let was_connected = self.turn != Turn::Absent;
        if self.turn.handle_gone(pipe) {
            self.interrupt(actions);
        }
        if let Phase::Running { disconnected, .. } = &mut self.phase
            && was_connected
            && self.turn == Turn::Absent
        {
            *disconnected = Some(now);
        }
    }

    fn handle_tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let limit = self.limits.start;
        match &mut self.phase {
            Phase::Starting { since } if now >= *since + limit => {
                let reason = format!("no handshake within {limit:?}");
                self.terminate(
                    Then::Fail {
                        reason,
                        up: Duration::ZERO,
                    },
                    now,
                    actions,
                );
            }
            Phase::Running {
                since,
                disconnected: Some(lost),
            } if now >= *lost + limit => {
                let reason =
                    format!("its control connection was lost and did not come back within {limit:?}");
                let up = now.saturating_duration_since(*since);
                self.terminate(Then::Fail { reason, up }, now, actions);
            }
            Phase::Running { .. } => {
                if let Some(sent) = self.outstanding.as_ref().filter(|sent| now >= sent.deadline) {
                    self.unanswered = Some(sent.order.to_string());
                    self.turn.handle_abandoned();
                    self.settle(Err(Refusal::TimedOut(self.limits.command)), actions);
                }
            }
            Phase::Waiting { until, .. } if now >= *until => {
                self.restarts = self.restarts.saturating_add(1);
                self.spawn(now, actions);
            }
            Phase::Stopping { kill_at, .. } if kill_at.is_some_and(|at| now >= at) => {
                *kill_at = None;
                actions.push(Action::Kill);
            }
            _ => {}
        }
    }

    /// What was sent last has come to an end.
    fn settle(&mut self, verdict: Result<(), Refusal>, actions: &mut Vec<Action>) {
        if let Some(sent) = self.outstanding.take() {
            actions.extend(self.uses.settle(&sent.order, verdict));
        }
    }

    /// The connection broke before the answer. Mostly the process has ended, and will be heard of next; if
    /// not, what has to run is started (once more, perhaps) when the plugin has connected anew.
    fn interrupt(&mut self, actions: &mut Vec<Action>) {
        if let Some(sent) = self.outstanding.take() {
            actions.extend(self.uses.interrupt(&sent.order));
        }
    }

    fn send_next(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Running { .. }) || !self.turn.is_ready() || self.outstanding.is_some()
        {
            return;
        }
        if let Some((order, symbol)) = self.uses.next_order() {
            let command = match order.verb {
                Verb::Start => Command::Start(symbol),
                Verb::Stop => Command::Stop(symbol),
            };
            actions.push(Action::Send(command.clone()));
            self.turn.handle_sent();
            self.outstanding = Some(Outstanding {
                order,
                command,
                deadline: now + self.limits.command,
            });
        }
    }

    fn spawn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Starting { since: now };
        actions.push(Action::Spawn);
    }

    fn terminate(&mut self, then: Then, now: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping {
            kill_at: Some(now + self.limits.grace),
            then,
        };
        actions.push(Action::Terminate);
    }

    /// The process failed after `up`. Everybody who waits for a first start hears of it; uses that have been
    /// running stay, and are started again in the next process.
    fn fail(&mut self, reason: String, up: Duration, now: Instant, actions: &mut Vec<Action>) {
        let random = self.random.f64();
        let delay = self.backoff.handle_failure(up, random);
        let (failures, limit) = (self.backoff.failures(), self.backoff.limit());
        self.phase = match delay {
            Some(delay) => Phase::Waiting {
                until: now + delay,
                reason: format!("{reason}; failure {failures} of {limit}, next try after {delay:.1?}"),
            },
            None => Phase::Failed(format!("{reason}; given up after failure {failures}")),
        };
        self.refuse_waiting(actions);
    }

    fn refuse_waiting(&mut self, actions: &mut Vec<Action>) {
        let (state, reason) = self.status();
        let unopened = self.uses.take_unopened().into_iter();
        actions.extend(unopened.map(|id| Action::Refused(id, Refusal::Down(state, reason.clone()))));
    }

    /// Why a new use cannot even wait.
    fn refusal(&self) -> Option<Refusal> {
        match self.phase {
            Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Stopping {
                then: Then::Stop(_), ..
            } => {
                let (state, reason) = self.status();
                Some(Refusal::Down(state, reason))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
