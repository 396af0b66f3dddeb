//! How a swap goes on: what each step waits for, and how it ends, one way or the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::life::undefined;
use super::super::swap::{Fact, Order, Side, Step, Swap};
use super::super::uses::{self, Use, UseId};
use super::super::{Event, Refusal};
use super::{Deed, Generation, Generations, Line, Stage, Work};

impl<P: Copy + Ord> Generations<P> {
    pub(super) fn review_swap(&mut self, now: Instant, deeds: &mut Vec<Deed<P>>) -> bool {
        let Some(next) = &mut self.next else { return false };
        let old = &self.current.life;
        let new = &next.line.life;
        // What ends may still run symbols, which must not run twice.
        if !new.is_well() && (new.uses().len() == 0 || !new.is_ending()) {
            let why = next.line.life.last_failure().to_owned();
            self.abandon(&why, now, deeds);
            return true;
        }
        let new_is_unresponsive = new.is_running() && new.is_unresponsive();
        match &mut next.stage {
            Stage::Starting if !next.line.life.is_running() => false,
            _ if old.is_ending() => false,
            Stage::Starting | Stage::Settling { .. } if !old.is_running() => {
                self.take_over(now, deeds);
                true
            }
            Stage::Starting => {
                next.stage = Stage::Settling {
                    until: now + old.command_limit(),
                };
                true
            }
            Stage::Settling { .. } if old.is_settled() => {
                self.move_all(now, deeds);
                true
            }
            Stage::Settling { until } if now >= *until => {
                self.condemn(Side::Old, now, deeds);
                true
            }
            Stage::Settling { .. } => false,
            Stage::Moving { swap, .. } if !old.is_running() => {
                if swap.is_going_back() {
                    self.abandon("the old version ended while symbols went back to it", now, deeds);
                } else {
                    self.take_over(now, deeds);
                }
                true
            }
            Stage::Moving { .. } if old.is_unresponsive() => {
                self.condemn(Side::Old, now, deeds);
                true
            }
            Stage::Moving { .. } if new_is_unresponsive => {
                self.condemn(Side::New, now, deeds);
                true
            }
            Stage::Moving { swap, until, .. } => {
                if let Some((id, Step::Turn)) = swap.doing()
                    && until.is_some_and(|until| now >= until)
                {
                    *until = None;
                    let why = Fact::Refused("it has not connected to the channel of a function".to_owned());
                    self.report(id, &[Step::Turn], why, now, deeds);
                    return true;
                }
                false
            }
        }
    }

    /// Every symbol that the new version has, one after the other.
    fn move_all(&mut self, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let Some(next) = &mut self.next else { return };
        let manifest = next.line.life.manifest().cloned();
        let defined = |found: &Use| {
            let manifest = manifest.as_deref();
            manifest.is_some_and(|manifest| uses::is_defined(&found.symbol, manifest))
        };
        let uses = self.current.life.uses().iter();
        let plan: BTreeMap<UseId, Use> = uses
            .filter(|(_, found)| defined(found))
            .map(|(id, found)| (id, found.clone()))
            .collect();
        let mut swap = Swap::new(plan.iter().map(|(id, found)| (*id, uses::kind(&found.symbol))));
        let orders = swap.advance();
        next.stage = Stage::Moving {
            swap,
            plan,
            until: None,
        };
        self.carry_out(orders.into_iter().map(Work::Order).collect(), now, deeds);
    }

    /// The new one is the current one from now on, with everything that has not moved yet.
    pub(super) fn take_over(&mut self, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let Some(mut next) = self.next.take() else { return };
        let manifest = next.line.life.manifest().cloned();
        if let Stage::Moving { swap, plan, .. } = next.stage {
            // One that has to be started first is let go when it is connected.
            let runs = |id: &UseId| next.line.life.uses().contains(*id);
            deeds.extend(swap.held().filter(runs).map(Deed::Release));
            plan.into_iter()
                .for_each(|(id, found)| next.line.life.adopt(id, found));
        }
        for (id, found) in self.current.life.uses().iter() {
            match &manifest {
                Some(manifest) if !uses::is_defined(&found.symbol, manifest) => {
                    let gone = undefined(manifest, &found.symbol.name);
                    deeds.push(if found.opened {
                        Deed::Ended(id, gone)
                    } else {
                        Deed::Refused(id, gone)
                    });
                }
                _ => next.line.life.adopt(id, found.clone()),
            }
        }
        let ticket = next.line.ticket;
        let old = std::mem::replace(&mut self.current, next.line);
        self.note.clear();
        self.drop_start("a newer version runs", deeds);
        self.retire(old, "replaced", now, deeds);
        deeds.push(Deed::Settled(ticket, Ok(())));
        self.feed(self.current.id, Event::Tick, now, deeds);
    }

    /// The old one goes on, with everything that has moved; the new one ends.
    pub(super) fn abandon(&mut self, why: &str, now: Instant, deeds: &mut Vec<Deed<P>>) {
        self.give_back(why, now, deeds);
        self.feed(self.current.id, Event::Tick, now, deeds);
    }

    /// The old one has everything again, the new one ends. Without a new one nothing happens.
    pub(super) fn give_back(&mut self, why: &str, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let Some(next) = self.next.take() else { return };
        let Line { id, ticket, life } = &next.line;
        let (id, ticket) = (*id, *ticket);
        let version = life.manifest().map_or("", |manifest| &manifest.version);
        self.note = format!("version {version} was not taken: {why}");
        let had_symbols = life.uses().len() > 0;
        if let Stage::Moving { swap, plan, .. } = next.stage {
            // As in `take_over`.
            let runs = |id: &UseId| self.current.life.uses().contains(*id);
            deeds.extend(swap.held().filter(runs).map(Deed::Release));
            plan.into_iter()
                .for_each(|(id, found)| self.current.life.adopt(id, found));
        }
        self.retire(next.line, "not taken", now, deeds);
        if had_symbols
            && self
                .retiring
                .iter()
                .any(|line| line.id == id && line.life.has_process())
        {
            // What it runs may be started again elsewhere, and sooner than its grace is over.
            deeds.push(Deed::Kill(id));
        }
        deeds.push(Deed::Settled(ticket, Err(why.to_owned())));
    }

    /// A process that does not answer in the middle of a move is ended, so that nothing can run twice.
    pub(super) fn condemn(&mut self, side: Side, now: Instant, deeds: &mut Vec<Deed<P>>) {
        let reason = "it did not answer while another version was taking over".to_owned();
        if let Some(id) = self.side(side) {
            self.feed(id, Event::Condemn(reason), now, deeds);
        }
    }

    pub(super) fn swap(&self) -> Option<&Swap> {
        match &self.next.as_ref()?.stage {
            Stage::Moving { swap, .. } => Some(swap),
            _ => None,
        }
    }

    pub(super) fn side(&self, side: Side) -> Option<Generation> {
        match side {
            Side::Old => Some(self.current.id),
            Side::New => Some(self.next.as_ref()?.line.id),
        }
    }

    /// Something has come of a step of the move; of which one, has to be among `steps`.
    pub(super) fn report(
        &mut self,
        id: UseId,
        steps: &[Step],
        fact: Fact,
        now: Instant,
        deeds: &mut Vec<Deed<P>>,
    ) {
        let orders = self.advance(id, steps, fact);
        self.carry_out(orders.into_iter().map(Work::Order).collect(), now, deeds);
    }

    pub(super) fn advance(&mut self, id: UseId, steps: &[Step], fact: Fact) -> Vec<Order> {
        match self.next.as_mut().map(|next| &mut next.stage) {
            Some(Stage::Moving { swap, until, .. }) => match swap.doing() {
                Some((moving, step)) if moving == id && steps.contains(&step) => {
                    *until = None;
                    swap.handle(fact)
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// What the move wants.
    pub(super) fn obey(
        &mut self,
        order: Order,
        now: Instant,
        work: &mut VecDeque<Work<P>>,
        deeds: &mut Vec<Deed<P>>,
    ) {
        match order {
            Order::Start(side, use_id) => {
                let found = match self.next.as_ref().map(|next| &next.stage) {
                    Some(Stage::Moving { plan, .. }) => plan.get(&use_id).cloned(),
                    _ => None,
                };
                if let (Some(id), Some(found)) = (self.side(side), found)
                    && let Some(line) = self.line_mut(id)
                {
                    line.life.adopt(use_id, found);
                    let actions = line.life.handle(Event::Tick, now);
                    work.extend(actions.into_iter().map(|action| Work::Action(id, action)));
                }
            }
            Order::Stop(side, use_id) => {
                if let Some(id) = self.side(side)
                    && let Some(line) = self.line_mut(id)
                {
                    let actions = line.life.handle(Event::Close(use_id), now);
                    work.extend(actions.into_iter().map(|action| Work::Action(id, action)));
                }
            }
            Order::Turn(side, use_id) => {
                let limit: Duration = self.current.life.command_limit();
                if let Some(Stage::Moving { until, .. }) = self.next.as_mut().map(|next| &mut next.stage) {
                    *until = Some(now + limit);
                }
                deeds.extend(self.side(side).map(|id| Deed::Turn(use_id, id)));
            }
            Order::Hold(use_id) => deeds.push(Deed::Hold(use_id)),
            Order::Dial(side, use_id) => deeds.extend(self.side(side).map(|id| Deed::Dial(use_id, id))),
            Order::Release(use_id) => deeds.push(Deed::Release(use_id)),
            Order::Lose(use_id, why) => {
                if let Some(Stage::Moving { plan, .. }) = self.next.as_mut().map(|next| &mut next.stage) {
                    plan.remove(&use_id);
                }
                deeds.push(Deed::Ended(use_id, Refusal::Plugin(why)));
            }
            Order::Finish(None) => self.take_over(now, deeds),
            Order::Finish(Some(why)) => self.abandon(&why, now, deeds),
        }
    }
}
