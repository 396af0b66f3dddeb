//! Owns the life of one line of processes: when one is started and stopped, which symbols have to run in it,
//! which command is sent next. Pure, see the [module above](super), whose diagram this follows.

mod look;
mod talk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mangrove_protocol::control::Command;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::SymbolName;

use super::health::Health;
use super::uses::{Order, Use, Uses};
use super::{Action, Event, Limits, Refusal, UseId};
use crate::plugin::backoff::Backoff;
use crate::plugin::turn::Turn;

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
    /// Somebody else starts the process.
    Awaiting,
}

/// What follows when the process that is being stopped has ended.
#[derive(Clone, Debug)]
enum Then {
    Stop(String),
    Start,
    Attach,
    Fail { reason: String, up: Duration },
}

/// What was sent and not yet answered.
#[derive(Clone, Debug)]
struct Outstanding {
    order: Order,
    command: Command,
    deadline: Instant,
    /// The process was found stopped meanwhile: what it says of limits of time means nothing.
    halted: bool,
}

/// The life of one plugin in one line of processes, each of which replaces the one that failed before. `P` is
/// the id of a control pipe.
#[derive(Debug)]
pub(super) struct Lifecycle<P> {
    limits: Limits,
    manifest: Option<Arc<Manifest>>,
    phase: Phase,
    backoff: Backoff,
    random: fastrand::Rng,
    restarts: u32,
    uses: Uses,
    turn: Turn<P>,
    outstanding: Option<Outstanding>,
    health: Health,
    /// The process that runs was started by somebody else.
    attached: bool,
    /// Why the last process failed.
    last_failure: String,
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
            manifest: None,
            phase: Phase::Stopped("not started".to_owned()),
            backoff,
            random: fastrand::Rng::with_seed(seed),
            restarts: 0,
            uses: Uses::default(),
            turn: Turn::default(),
            outstanding: None,
            health: Health::default(),
            attached: false,
            last_failure: String::new(),
        }
    }

    /// Decides what `event`, at `now`, leads to.
    pub(super) fn handle(&mut self, event: Event<P>, now: Instant) -> Vec<Action<P>> {
        let mut actions = Vec::new();
        match event {
            Event::Start(manifest, limits) => self.handle_start(manifest, limits, now, &mut actions),
            Event::Attach => self.handle_attach(now, &mut actions),
            Event::Stop(reason) => self.handle_stop(reason, now, &mut actions),
            Event::SpawnFailed(reason) => {
                if matches!(self.phase, Phase::Starting { .. }) {
                    self.fail(reason, Duration::ZERO, now, &mut actions);
                }
            }
            Event::Exited(how) => self.handle_exited(how, now, &mut actions),
            Event::Message(pipe, id, request) => self.handle_message(pipe, id, request, now, &mut actions),
            Event::Gone(pipe) => self.handle_gone(pipe, now, &mut actions),
            Event::Heard(pipe, id) => self.handle_heard(pipe, id, now),
            Event::Deaf(limit) => self.health.note_deaf(limit),
            Event::Reset => self.forget_process(&mut actions),
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
            Event::Lost(id, was_connected) => self.handle_lost(id, was_connected, now, &mut actions),
            Event::Late(function) => self.health.note_late(function),
            Event::Halted(halted) => {
                self.health.note_halted(halted);
                if let Some(sent) = self.outstanding.as_mut() {
                    sent.halted = true;
                }
            }
            Event::Condemn(reason) => self.handle_condemned(reason, now, &mut actions),
            Event::Tick => self.handle_tick(now, &mut actions),
        }
        self.send_next(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Awaiting => None,
            Phase::Starting { since } => Some(since + self.limits.start),
            Phase::Running { disconnected, .. } => {
                let command = self.outstanding.as_ref().map(|sent| sent.deadline);
                let lost = disconnected.map(|since| since + self.limits.start);
                let silence = self.health.deadline(self.is_quiet());
                [command, lost, silence, self.patience_ends()]
                    .into_iter()
                    .flatten()
                    .min()
            }
            Phase::Waiting { until, .. } => Some(until),
            Phase::Stopping { kill_at, .. } => kill_at,
        }
    }

    /// It has nothing to answer: if it sends keep-alives, it does so now.
    fn is_quiet(&self) -> bool {
        self.outstanding.is_none() && self.turn.ready().is_some()
    }

    /// When a process that owes an answer is no longer waited for.
    fn patience_ends(&self) -> Option<Instant> {
        let (_, since) = self.health.unanswered().filter(|_| !self.attached)?;
        Some(since + self.limits.start)
    }

    /// A life beside this one, which has not begun and may take its place.
    pub(super) fn successor(&mut self) -> Self {
        let mut backoff = self.backoff.clone();
        backoff.reset();
        let mut successor = Self::new(backoff, self.random.u64(..));
        successor.restarts = self.restarts;
        successor
    }

    /// Takes over a use from another life, where it no longer runs. It is started at the next event.
    pub(super) fn adopt(&mut self, id: UseId, found: Use) {
        self.uses.adopt(id, found);
    }

    /// The use that the command is about which was sent last and is not answered.
    pub(super) fn commanded(&self) -> Option<UseId> {
        self.outstanding.as_ref().map(|sent| sent.order.id)
    }

    /// Every use that is open or about to be.
    pub(super) fn uses(&self) -> &Uses {
        &self.uses
    }

    fn handle_start(
        &mut self,
        manifest: Arc<Manifest>,
        limits: Limits,
        now: Instant,
        actions: &mut Vec<Action<P>>,
    ) {
        self.limits = limits;
        for (id, symbol) in self.uses.retain_defined(&manifest) {
            actions.push(Action::Ended(id, undefined(&manifest, &symbol)));
        }
        self.manifest = Some(manifest);
        self.backoff.reset();
        self.detach(actions);
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Waiting { .. } | Phase::Awaiting => {
                self.spawn(now, actions);
            }
            Phase::Stopping { then, .. } => *then = Then::Start,
            Phase::Starting { .. } | Phase::Running { .. } => self.terminate(Then::Start, now, actions),
        }
    }

    fn handle_attach(&mut self, now: Instant, actions: &mut Vec<Action<P>>) {
        self.backoff.reset();
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Waiting { .. } => {
                self.phase = Phase::Awaiting;
                self.attached = true;
            }
            Phase::Stopping { then, .. } => *then = Then::Attach,
            Phase::Starting { .. } | Phase::Running { .. } if !self.attached => {
                self.terminate(Then::Attach, now, actions);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Awaiting => {}
        }
    }

    /// A process that has said that a function runs and never connected it, would say so again.
    fn handle_lost(&mut self, id: UseId, was_connected: bool, now: Instant, actions: &mut Vec<Action<P>>) {
        if was_connected {
            self.uses.note_lost(id);
        } else if let Some(name) = self.uses.name(id) {
            let reason = format!("it says that the function \"{name}\" runs, and has not connected it");
            self.handle_condemned(reason, now, actions);
        }
    }

    pub(super) fn handle_condemned(&mut self, reason: String, now: Instant, actions: &mut Vec<Action<P>>) {
        let up = match &self.phase {
            Phase::Running { since, .. } => now.saturating_duration_since(*since),
            Phase::Starting { .. } => Duration::ZERO,
            Phase::Awaiting
            | Phase::Stopped(_)
            | Phase::Failed(_)
            | Phase::Waiting { .. }
            | Phase::Stopping { .. } => return,
        };
        if self.attached {
            self.lose_attached(actions);
            return;
        }
        self.phase = Phase::Stopping {
            kill_at: None,
            then: Then::Fail { reason, up },
        };
        actions.push(Action::Kill);
    }

    /// The process that somebody else has started is not ours to end: it is disconnected.
    fn detach(&mut self, actions: &mut Vec<Action<P>>) {
        if std::mem::take(&mut self.attached) {
            actions.push(Action::Detach);
            self.forget_process(actions);
            self.phase = Phase::Stopped(String::new());
        }
    }

    fn lose_attached(&mut self, actions: &mut Vec<Action<P>>) {
        actions.push(Action::Detach);
        self.forget_process(actions);
        self.phase = Phase::Awaiting;
    }

    fn forget_process(&mut self, actions: &mut Vec<Action<P>>) {
        self.turn = Turn::default();
        self.outstanding = None;
        self.health = Health::default();
        actions.extend(self.uses.handle_exited().into_iter().map(Action::Closed));
    }

    fn handle_stop(&mut self, reason: String, now: Instant, actions: &mut Vec<Action<P>>) {
        self.detach(actions);
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Failed(_) | Phase::Waiting { .. } | Phase::Awaiting => {
                self.phase = Phase::Stopped(reason);
                self.refuse_waiting(actions);
            }
            Phase::Stopping { then, .. } => *then = Then::Stop(reason),
            Phase::Starting { .. } | Phase::Running { .. } => {
                self.terminate(Then::Stop(reason), now, actions);
            }
        }
    }

    fn handle_exited(&mut self, how: String, now: Instant, actions: &mut Vec<Action<P>>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Stopped(String::new()));
        self.forget_process(actions);
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
                then: Then::Attach, ..
            } => {
                self.phase = Phase::Awaiting;
                self.attached = true;
            }
            Phase::Stopping {
                then: Then::Stop(reason),
                ..
            } => {
                self.phase = Phase::Stopped(reason);
                self.refuse_waiting(actions);
            }
            phase @ (Phase::Stopped(_) | Phase::Waiting { .. } | Phase::Failed(_) | Phase::Awaiting) => {
                self.phase = phase;
            }
        }
    }

    fn handle_tick(&mut self, now: Instant, actions: &mut Vec<Action<P>>) {
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
            Phase::Running { since, .. } => {
                let up = now.saturating_duration_since(*since);
                if let Some(sent) = self.outstanding.as_ref().filter(|sent| now >= sent.deadline) {
                    self.health.note_unanswered(sent.order.to_string(), now);
                    self.turn.handle_abandoned();
                    self.settle(Err(Refusal::TimedOut(self.limits.command)), now, actions);
                    if !matches!(self.phase, Phase::Running { .. }) {
                        return;
                    }
                }
                self.health.handle_tick(now, self.is_quiet());
                if self.patience_ends().is_some_and(|end| now >= end)
                    && let Some(complaint) = self.health.complaint()
                {
                    let reason = format!("{complaint}, and has said nothing for {limit:?} since");
                    self.terminate(Then::Fail { reason, up }, now, actions);
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

    fn spawn(&mut self, now: Instant, actions: &mut Vec<Action<P>>) {
        self.phase = Phase::Starting { since: now };
        actions.push(Action::Spawn);
    }

    fn terminate(&mut self, then: Then, now: Instant, actions: &mut Vec<Action<P>>) {
        self.phase = Phase::Stopping {
            kill_at: Some(now + self.limits.grace),
            then,
        };
        actions.push(Action::Terminate);
    }

    /// The process failed after `up`. Everybody who waits for a first start hears of it; uses that have been
    /// running stay, and are started again in the next process.
    fn fail(&mut self, reason: String, up: Duration, now: Instant, actions: &mut Vec<Action<P>>) {
        self.last_failure.clone_from(&reason);
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

    fn refuse_waiting(&mut self, actions: &mut Vec<Action<P>>) {
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

/// What the user of a symbol is told when a version no longer has it.
pub(super) fn undefined(manifest: &Manifest, symbol: &SymbolName) -> Refusal {
    Refusal::Undefined(format!(
        "version {} no longer defines \"{symbol}\"",
        manifest.version
    ))
}
