//! Owns which of a plugin's processes is which: the *current* one, which the rules use; while a new version takes
//! over, the *next* one beside it; and those that are *retiring*. Pure; the worker drives it. How symbols get
//! from one to the other is for `swap`, what each process does meanwhile for its own `life`.
//!
//! ```text
//!                 Start while one runs         its handshake            the old one has answered
//! (current only) ─────────────────────▶ Starting ──────────▶ Settling ──────────────────────▶ Moving
//!      ▲ ▲                                 │                    │                            │    │
//!      │ └── it fails: the old one goes on ┴────────────────────┴── after a refusal: all is ─┘    │
//!      │     with a note                                            back where it was             │
//!      └──────────────── the new one is current, the old one is told to end ──────────────────────┘
//! ```
//!
//! From `Settling` on, what users want to open or close waits until the swap is over, which every step's limit
//! bounds. When the old process ends by itself, the new one takes over everything as soon as it has sent its
//! handshake; when the new one does, the old one takes everything back.

mod takeover;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::manifest::Manifest;

use super::swap::{Fact, Order, Side, Step, Swap};
use super::uses::{Use, UseId};
use super::{Action, Backoff, Event, Lifecycle, Limits};
pub(in crate::plugin) use words::{Deed, Generation, Happening, Standing, Ticket};

/// So many processes may be ending while others run; the oldest are killed.
const RETIRING: usize = 4;

#[derive(Debug)]
struct Line<P> {
    id: Generation,
    /// What it runs.
    ticket: Ticket,
    life: Lifecycle<P>,
}

#[derive(Debug)]
enum Stage {
    /// The new one has not sent its handshake yet.
    Starting,
    /// The old one owes answers to what it was told last.
    Settling { until: Instant },
    Moving {
        swap: Swap,
        /// What moves, wherever it is just now.
        plan: BTreeMap<UseId, Use>,
        /// When the step that only the plugin can end is no longer waited for.
        until: Option<Instant>,
    },
}

#[derive(Debug)]
struct Next<P> {
    line: Line<P>,
    stage: Stage,
}

/// Every process of one plugin. `P` is the id of a control pipe.
#[derive(Debug)]
pub(in crate::plugin) struct Generations<P> {
    newest: Generation,
    current: Line<P>,
    next: Option<Next<P>>,
    retiring: Vec<Line<P>>,
    /// The start of the current one, until it has come off.
    starting: Option<Ticket>,
    /// What is to replace the one that is taking over.
    wanted: Option<(Ticket, Arc<Manifest>, Limits)>,
    /// What users want, while symbols move.
    deferred: Vec<Happening<P>>,
    note: String,
}

/// What is left to do within one step.
enum Work<P> {
    Action(Generation, Action<P>),
    Order(Order),
}

impl<P: Copy + Ord> Generations<P> {
    /// A plugin that runs nothing yet. `seed` decides the jitter of its restarts.
    pub(in crate::plugin) fn new(backoff: Backoff, seed: u64) -> Self {
        let newest = Generation(0);
        Self {
            newest,
            current: Line {
                id: newest,
                ticket: Ticket(0),
                life: Lifecycle::new(backoff, seed),
            },
            next: None,
            retiring: Vec::new(),
            starting: None,
            wanted: None,
            deferred: Vec::new(),
            note: String::new(),
        }
    }

    /// Decides what `happening`, at `now`, leads to.
    pub(in crate::plugin) fn handle(&mut self, happening: Happening<P>, now: Instant) -> Vec<Deed<P>> {
        let mut deeds = Vec::new();
        self.apply(happening, now, &mut deeds);
        while self.review(now, &mut deeds) {}
        deeds
    }

    /// When [`Happening::Tick`] is due.
    pub(in crate::plugin) fn deadline(&self) -> Option<Instant> {
        let stage = self.next.as_ref().and_then(|next| match &next.stage {
            Stage::Starting => None,
            Stage::Settling { until } => Some(*until),
            Stage::Moving { until, .. } => *until,
        });
        self.lines()
            .filter_map(|line| line.life.deadline())
            .chain(stage)
            .min()
    }

    /// How it is.
    pub(in crate::plugin) fn standing(&self) -> Standing {
        let life = &self.current.life;
        let (state, reason) = life.status();
        Standing {
            state,
            reason,
            version: life.manifest().map(|manifest| manifest.version.clone()),
            restarts: life.restarts(),
            note: self.note.clone(),
            attached: life.is_attached(),
        }
    }

    /// The one that the rules use.
    pub(in crate::plugin) fn current(&self) -> Generation {
        self.current.id
    }

    /// The one whose handshake is awaited next, if its process is not known otherwise.
    pub(in crate::plugin) fn expected(&self) -> Generation {
        match &self.next {
            Some(next) if !next.line.life.is_running() => next.line.id,
            _ => self.current.id,
        }
    }

    /// The use that a command of this one's is about which is not answered.
    pub(in crate::plugin) fn commanded(&self, id: Generation) -> Option<UseId> {
        let mut lines = self.lines();
        lines.find(|line| line.id == id)?.life.commanded()
    }

    /// What this one runs.
    pub(in crate::plugin) fn manifest(&self, id: Generation) -> Option<Arc<Manifest>> {
        let mut lines = self.lines();
        lines.find(|line| line.id == id)?.life.manifest().cloned()
    }

    /// The wishes to start that stand for what runs or may yet run.
    pub(in crate::plugin) fn tickets(&self) -> impl Iterator<Item = Ticket> + '_ {
        let wanted = self.wanted.as_ref().map(|(ticket, ..)| *ticket);
        self.lines().map(|line| line.ticket).chain(wanted)
    }

    /// Neither a process nor the wish for one.
    pub(in crate::plugin) fn is_down(&self) -> bool {
        self.current.life.is_down() && self.next.is_none() && self.retiring.is_empty()
    }

    /// How many uses are open.
    pub(in crate::plugin) fn uses(&self) -> usize {
        self.current.life.uses().len()
    }

    fn lines(&self) -> impl Iterator<Item = &Line<P>> {
        let next = self.next.as_ref().map(|next| &next.line);
        std::iter::once(&self.current).chain(next).chain(&self.retiring)
    }

    fn line_mut(&mut self, id: Generation) -> Option<&mut Line<P>> {
        let next = self.next.as_mut().map(|next| &mut next.line);
        let mut lines = std::iter::once(&mut self.current)
            .chain(next)
            .chain(&mut self.retiring);
        lines.find(|line| line.id == id)
    }

    fn apply(&mut self, happening: Happening<P>, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let current = self.current.id;
        match happening {
            Happening::Start(ticket, manifest, limits) => self.start(ticket, manifest, limits, now, deeds),
            Happening::Attach => {
                self.drop_everything("it waits for another process", now, deeds);
                self.feed(current, Event::Attach, now, deeds);
            }
            Happening::Stop(reason) => {
                self.drop_everything(&reason, now, deeds);
                self.feed(current, Event::Stop(reason), now, deeds);
            }
            Happening::Open(..) | Happening::Close(_) if self.is_moving() => self.deferred.push(happening),
            Happening::Open(id, symbol) => self.feed(current, Event::Open(id, symbol), now, deeds),
            Happening::Close(id) => self.feed(current, Event::Close(id), now, deeds),
            // What moves gets its connection anew anyway.
            Happening::Silent(id) if !self.is_moving() => self.feed(current, Event::Silent(id), now, deeds),
            Happening::Silent(_) => {}
            Happening::Of(_, Event::Lost(..)) if self.is_moving() => {}
            Happening::Late(function) => self.feed(current, Event::Late(function), now, deeds),
            Happening::Of(id, event) => self.feed(id, event, now, deeds),
            Happening::Held(id) => self.report(id, &[Step::Hold], Fact::Done, now, deeds),
            Happening::Dialed(id, outcome) => {
                let fact = outcome.map_or_else(Fact::Refused, |()| Fact::Done);
                self.report(id, &[Step::Dial], fact, now, deeds);
            }
            Happening::Turned(id, at) => {
                let goal = self.swap().map(|swap| {
                    if swap.is_going_back() {
                        Side::Old
                    } else {
                        Side::New
                    }
                });
                if goal.is_some_and(|goal| self.side(goal) == Some(at)) {
                    self.report(id, &[Step::Turn], Fact::Done, now, deeds);
                }
            }
            Happening::Tick => {
                for id in self.lines().map(|line| line.id).collect::<Vec<_>>() {
                    self.feed(id, Event::Tick, now, deeds);
                }
            }
        }
    }

    fn start(
        &mut self,
        ticket: Ticket,
        manifest: Arc<Manifest>,
        limits: Limits,
        now: Instant,
        deeds: &mut Vec<Deed<P>>,
    ) {
        let superseded = || Err(format!("version {} came instead", manifest.version));
        match self.next.as_ref().map(|next| &next.stage) {
            Some(Stage::Settling { .. } | Stage::Moving { .. }) => {
                let before = self.wanted.replace((ticket, Arc::clone(&manifest), limits));
                deeds.extend(before.map(|(ticket, ..)| Deed::Settled(ticket, superseded())));
                return;
            }
            Some(Stage::Starting) => {
                if let Some(next) = self.next.take() {
                    deeds.push(Deed::Settled(next.line.ticket, superseded()));
                    self.retire(next.line, "superseded", now, deeds);
                }
            }
            None => {}
        }
        let life = &mut self.current.life;
        if life.is_running() && !life.is_attached() {
            self.newest = Generation(self.newest.0 + 1);
            let line = Line {
                id: self.newest,
                ticket,
                life: life.successor(),
            };
            self.next = Some(Next {
                line,
                stage: Stage::Starting,
            });
            self.feed(self.newest, Event::Start(manifest, limits), now, deeds);
        } else {
            if let Some(before) = self.starting.replace(ticket) {
                deeds.push(Deed::Settled(before, superseded()));
            }
            self.note.clear();
            self.current.ticket = ticket;
            self.feed(self.current.id, Event::Start(manifest, limits), now, deeds);
        }
    }

    /// Nobody's start goes on.
    fn drop_everything(&mut self, reason: &str, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let wanted = self.wanted.take();
        deeds.extend(wanted.map(|(ticket, ..)| Deed::Settled(ticket, Err(reason.to_owned()))));
        self.give_back(reason, now, deeds);
        self.drop_start(reason, deeds);
    }

    /// Whoever waits for the start of the current one waits in vain.
    fn drop_start(&mut self, reason: &str, deeds: &mut Vec<Deed<P>>) {
        let starting = self.starting.take();
        deeds.extend(starting.map(|ticket| Deed::Settled(ticket, Err(reason.to_owned()))));
    }

    /// Looks at what has become of everything. True when that changed something.
    fn review(&mut self, now: Instant, deeds: &mut Vec<Deed<P>>) -> bool {
        self.retiring.retain(|line| {
            let remains = line.life.has_process();
            if !remains {
                deeds.push(Deed::Over(line.id));
            }
            remains
        });
        if let Some(ticket) = self.starting {
            let life = &self.current.life;
            if life.is_running() {
                self.starting = None;
                deeds.push(Deed::Settled(ticket, Ok(())));
            } else if !life.is_well() {
                self.starting = None;
                deeds.push(Deed::Settled(ticket, Err(life.last_failure().to_owned())));
            }
        }
        if self.next.is_some() {
            return self.review_swap(now, deeds);
        }
        if !self.deferred.is_empty() {
            for happening in std::mem::take(&mut self.deferred) {
                self.apply(happening, now, deeds);
            }
            return true;
        }
        if let Some((ticket, manifest, limits)) = self.wanted.take() {
            self.start(ticket, manifest, limits, now, deeds);
            return true;
        }
        false
    }

    fn retire(&mut self, mut line: Line<P>, reason: &str, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let actions = line.life.handle(Event::Stop(reason.to_owned()), now);
        let id = line.id;
        self.retiring.push(line);
        self.carry_out(
            actions
                .into_iter()
                .map(|action| Work::Action(id, action))
                .collect(),
            now,
            deeds,
        );
        let surplus = self.retiring.len().saturating_sub(RETIRING);
        deeds.extend(self.retiring.iter().take(surplus).map(|line| Deed::Kill(line.id)));
    }

    fn is_moving(&self) -> bool {
        let stage = self.next.as_ref().map(|next| &next.stage);
        matches!(stage, Some(Stage::Settling { .. } | Stage::Moving { .. }))
    }

    fn feed(&mut self, id: Generation, event: Event<P>, now: Instant, deeds: &mut Vec<Deed<P>>) {
        if let Some(line) = self.line_mut(id) {
            let actions = line.life.handle(event, now);
            let work = actions.into_iter().map(|action| Work::Action(id, action));
            self.carry_out(work.collect(), now, deeds);
        }
    }

    fn carry_out(&mut self, mut work: VecDeque<Work<P>>, now: Instant, deeds: &mut Vec<Deed<P>>) {
        while let Some(next) = work.pop_front() {
            match next {
                Work::Action(id, action) => self.translate(id, action, now, &mut work, deeds),
                Work::Order(order) => self.obey(order, now, &mut work, deeds),
            }
        }
    }

    /// What a life wants, in terms of the whole plugin.
    fn translate(
        &mut self,
        id: Generation,
        action: Action<P>,
        now: Instant,
        work: &mut VecDeque<Work<P>>,
        deeds: &mut Vec<Deed<P>>,
    ) {
        let Some(line) = self.line_mut(id) else { return };
        let ticket = line.ticket;
        let (use_id, fact) = match &action {
            Action::Spawn => return deeds.push(Deed::Spawn(id, ticket)),
            Action::Terminate => return deeds.push(Deed::Terminate(id)),
            Action::Kill => return deeds.push(Deed::Kill(id)),
            Action::Detach => return deeds.push(Deed::Detach(id)),
            Action::Send(pipe, command) => return deeds.push(Deed::Send(id, *pipe, command.clone())),
            Action::Started(use_id) => (*use_id, Fact::Started),
            Action::Refused(use_id, refusal) | Action::Ended(use_id, refusal) => {
                (*use_id, Fact::Refused(refusal.to_string()))
            }
            Action::Closed(use_id) => (*use_id, Fact::Stopped),
        };
        if self.retiring.iter().any(|line| line.id == id) {
            return;
        }
        let asked = self.swap().and_then(|swap| {
            let (moving, _) = swap.doing().filter(|(moving, _)| *moving == use_id)?;
            let side = swap.asked()?;
            (self.side(side) == Some(id)).then_some((moving, side))
        });
        let Some((_, side)) = asked else {
            match action {
                Action::Started(use_id) => deeds.push(Deed::Started(use_id, id)),
                Action::Refused(use_id, refusal) => deeds.push(Deed::Refused(use_id, refusal)),
                Action::Ended(use_id, refusal) => deeds.push(Deed::Ended(use_id, refusal)),
                Action::Closed(use_id) => deeds.push(Deed::Closed(use_id)),
                _ => {}
            }
            return;
        };
        // Nobody knows what it did of what it was told, so it must not live on.
        let is_known =
            |life: &Lifecycle<P>| life.is_running() && life.is_connected() && !life.is_unresponsive();
        if !self.line_mut(id).is_some_and(|line| is_known(&line.life)) {
            self.condemn(side, now, deeds);
            return;
        }
        let steps = [Step::Start, Step::StartAlone, Step::Stop, Step::StopFirst];
        work.extend(self.advance(use_id, &steps, fact).into_iter().map(Work::Order));
    }
}

#[cfg(test)]
mod tests;
