//! Owns the way of symbols from the old process of a plugin to the new one, and back when the new one refuses one
//! of them. Pure: [`Swap`] is told what has been done and says what is next; `generations` drives it.
//!
//! One item moves at a time. What has to happen depends on its kind:
//!
//! ```text
//! function   start in the new one ─▶ it takes over the calls ─▶ there         both may have it
//! source     start in the new one ─▶ stop in the old one ─▶ there             both may have it
//!                 │ refused: the device or port may be exclusive
//!                 └─▶ stop in the old one ─▶ start in the new one ─▶ there
//! sink       hold the sender ─▶ stop in the old one ─▶ start in the new one
//!                 ─▶ dial it ─▶ let the sender go on ─▶ there                 never both: one address
//! ```
//!
//! A refusal turns everything round: the item itself and what has moved before it go back in reverse order, by
//! the same steps. What cannot go back either is lost, and its user is told.

use super::uses::UseId;
use mangrove_protocol::manifest::SymbolKind;

/// One of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }
}

/// What has to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Start it there: [`Fact::Started`] or [`Fact::Refused`].
    Start(Side, UseId),
    /// Stop it there: [`Fact::Stopped`].
    Stop(Side, UseId),
    /// Let this side take over the calls of the function: [`Fact::Done`].
    Turn(Side, UseId),
    /// Keep the sink's sender from sending: [`Fact::Done`].
    Hold(UseId),
    /// Connect the sink's sender with this side: [`Fact::Done`] or [`Fact::Refused`].
    Dial(Side, UseId),
    /// Let the sink's sender go on.
    Release(UseId),
    /// It runs nowhere and cannot be made to.
    Lose(UseId, String),
    /// All is done: everything is there; or, with the reason, back again.
    Finish(Option<String>),
}

/// What has come of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Started,
    Stopped,
    Done,
    Refused(String),
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start,
    Stop,
    /// As `Start`, where the other side does not have it any more.
    StartAlone,
    /// As `Stop`, before this side has it.
    StopFirst,
    Turn,
    Hold,
    Dial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    id: UseId,
    kind: SymbolKind,
    /// Where it runs, if it does.
    at: Option<Side>,
    held: bool,
}

/// The move of all symbols.
#[derive(Debug)]
pub(super) struct Swap {
    goal: Side,
    /// The next one is the last.
    todo: Vec<Item>,
    moved: Vec<Item>,
    doing: Option<(Item, Step)>,
    why: Option<String>,
}

impl Swap {
    /// The move of these, in this order, from the old process to the new one.
    pub(super) fn new(items: impl DoubleEndedIterator<Item = (UseId, SymbolKind)>) -> Self {
        let item = |(id, kind)| Item {
            id,
            kind,
            at: Some(Side::Old),
            held: false,
        };
        Self {
            goal: Side::New,
            todo: items.rev().map(item).collect(),
            moved: Vec::new(),
            doing: None,
            why: None,
        }
    }

    /// Begins, or goes on when nothing is being waited for.
    pub(super) fn advance(&mut self) -> Vec<Order> {
        if self.doing.is_some() {
            return Vec::new();
        }
        match self.todo.pop() {
            Some(item) => vec![self.begin(item)],
            None => vec![Order::Finish(self.why.clone())],
        }
    }

    /// The item that moves just now, and what is being waited for.
    pub(super) fn doing(&self) -> Option<(UseId, Step)> {
        self.doing.map(|(item, step)| (item.id, step))
    }

    /// The side on which the moving item is being started or stopped.
    pub(super) fn asked(&self) -> Option<Side> {
        match self.doing?.1 {
            Step::Start | Step::StartAlone => Some(self.goal),
            Step::Stop | Step::StopFirst => Some(self.goal.other()),
            Step::Turn | Step::Hold | Step::Dial => None,
        }
    }

    /// The sink that is on its way: its sender is held, or about to be.
    pub(super) fn held(&self) -> Option<UseId> {
        let (item, _) = self.doing.filter(|(item, _)| item.kind == SymbolKind::Sink)?;
        Some(item.id)
    }

    /// Everything moves to where it was.
    pub(super) fn is_going_back(&self) -> bool {
        self.goal == Side::Old
    }

    /// Something has come of the last order.
    pub(super) fn handle(&mut self, fact: Fact) -> Vec<Order> {
        let Some((mut item, step)) = self.doing.take() else {
            return Vec::new();
        };
        let (id, goal) = (item.id, self.goal);
        match (step, fact) {
            (Step::Hold, _) => {
                item.held = true;
                vec![self.begin(item)]
            }
            (Step::Start, Fact::Refused(_)) if item.kind == SymbolKind::Source => {
                self.then(item, Step::StopFirst, Order::Stop(goal.other(), id))
            }
            (_, Fact::Refused(why)) => self.fail(item, step, why),
            (Step::Start, _) if item.kind == SymbolKind::Function => {
                self.then(item, Step::Turn, Order::Turn(goal, id))
            }
            (Step::Start, _) => self.then(item, Step::Stop, Order::Stop(goal.other(), id)),
            (Step::Stop, _) if item.kind == SymbolKind::Sink => {
                item.at = None;
                self.then(item, Step::StartAlone, Order::Start(goal, id))
            }
            (Step::StopFirst, _) => {
                item.at = None;
                self.then(item, Step::StartAlone, Order::Start(goal, id))
            }
            (Step::StartAlone, _) if item.kind == SymbolKind::Sink => {
                item.at = Some(goal);
                self.then(item, Step::Dial, Order::Dial(goal, id))
            }
            (Step::Stop | Step::StartAlone | Step::Turn | Step::Dial, _) => self.arrive(item),
        }
    }

    fn then(&mut self, item: Item, step: Step, order: Order) -> Vec<Order> {
        self.doing = Some((item, step));
        vec![order]
    }

    /// The first step of an item that is not where it should be.
    fn begin(&mut self, item: Item) -> Order {
        let (id, goal) = (item.id, self.goal);
        let (step, order) = match (item.kind, item.at) {
            (SymbolKind::Sink, _) if !item.held => (Step::Hold, Order::Hold(id)),
            (_, None) => (Step::StartAlone, Order::Start(goal, id)),
            (SymbolKind::Sink, Some(at)) => (Step::Stop, Order::Stop(at, id)),
            // The old process has not been told to end it: there is no such command.
            (SymbolKind::Function, Some(_)) if goal == Side::Old => (Step::Turn, Order::Turn(goal, id)),
            (SymbolKind::Function | SymbolKind::Source, Some(_)) => (Step::Start, Order::Start(goal, id)),
        };
        self.doing = Some((item, step));
        order
    }

    fn arrive(&mut self, mut item: Item) -> Vec<Order> {
        let mut orders = Vec::new();
        item.at = Some(self.goal);
        if std::mem::take(&mut item.held) {
            orders.push(Order::Release(item.id));
        }
        self.moved.push(item);
        orders.extend(self.advance());
        orders
    }

    fn fail(&mut self, item: Item, step: Step, why: String) -> Vec<Order> {
        if self.goal == Side::New {
            self.goal = Side::Old;
            self.why = Some(why);
            // What has not moved yet is where it belongs; what has, goes back, the last one first.
            self.todo = std::mem::take(&mut self.moved);
            let is_back = item.kind == SymbolKind::Function && step == Step::Start;
            if is_back {
                return self.advance();
            }
            return vec![self.begin(item)];
        }
        if matches!(step, Step::Dial | Step::Turn) {
            // It runs there, and gets its connection by itself.
            return self.arrive(item);
        }
        let mut orders = vec![Order::Lose(item.id, why)];
        if item.held {
            orders.push(Order::Release(item.id));
        }
        orders.extend(self.advance());
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{New, Old};

    const A: UseId = UseId(1);
    const B: UseId = UseId(2);

    fn refused() -> Fact {
        Fact::Refused("no".to_owned())
    }

    fn finish(why: Option<&str>) -> Order {
        Order::Finish(why.map(str::to_owned))
    }

    /// Each row: what is told, and what has to follow.
    fn play(items: &[(UseId, SymbolKind)], first: &[Order], rows: &[(Fact, &[Order])]) {
        let mut swap = Swap::new(items.iter().copied());
        assert_eq!(swap.advance(), first);
        for (fact, orders) in rows {
            assert_eq!(swap.handle(fact.clone()), *orders, "after {fact:?}");
        }
        assert_eq!(swap.doing(), None);
    }

    #[test]
    fn nothing_to_move_is_done_at_once() {
        play(&[], &[finish(None)], &[]);
    }

    #[test]
    fn a_source_overlaps() {
        play(
            &[(A, SymbolKind::Source)],
            &[Order::Start(New, A)],
            &[
                (Fact::Started, &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[finish(None)]),
            ],
        );
    }

    #[test]
    fn an_exclusive_source_is_stopped_first() {
        play(
            &[(A, SymbolKind::Source)],
            &[Order::Start(New, A)],
            &[
                (refused(), &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[Order::Start(New, A)]),
                (Fact::Started, &[finish(None)]),
            ],
        );
    }

    #[test]
    fn a_source_that_the_new_one_refuses_twice_is_started_in_the_old_one_again() {
        play(
            &[(A, SymbolKind::Source)],
            &[Order::Start(New, A)],
            &[
                (refused(), &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[Order::Start(New, A)]),
                (refused(), &[Order::Start(Old, A)]),
                (Fact::Started, &[finish(Some("no"))]),
            ],
        );
    }

    #[test]
    fn a_function_is_turned_and_turned_back() {
        play(
            &[(A, SymbolKind::Function), (B, SymbolKind::Function)],
            &[Order::Start(New, A)],
            &[
                (Fact::Started, &[Order::Turn(New, A)]),
                (Fact::Done, &[Order::Start(New, B)]),
                (refused(), &[Order::Turn(Old, A)]),
                (Fact::Done, &[finish(Some("no"))]),
            ],
        );
    }

    #[test]
    fn a_sink_is_held_while_nobody_has_its_address() {
        play(
            &[(A, SymbolKind::Sink)],
            &[Order::Hold(A)],
            &[
                (Fact::Done, &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[Order::Start(New, A)]),
                (Fact::Started, &[Order::Dial(New, A)]),
                (Fact::Done, &[Order::Release(A), finish(None)]),
            ],
        );
    }

    #[test]
    fn a_refused_sink_goes_back_held_and_what_moved_before_it_after_it() {
        play(
            &[(A, SymbolKind::Source), (B, SymbolKind::Sink)],
            &[Order::Start(New, A)],
            &[
                (Fact::Started, &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[Order::Hold(B)]),
                (Fact::Done, &[Order::Stop(Old, B)]),
                (Fact::Stopped, &[Order::Start(New, B)]),
                (refused(), &[Order::Start(Old, B)]),
                (Fact::Started, &[Order::Dial(Old, B)]),
                (Fact::Done, &[Order::Release(B), Order::Start(Old, A)]),
                (Fact::Started, &[Order::Stop(New, A)]),
                (Fact::Stopped, &[finish(Some("no"))]),
            ],
        );
    }

    #[test]
    fn a_sink_that_cannot_be_reached_is_stopped_before_it_goes_back() {
        play(
            &[(A, SymbolKind::Sink)],
            &[Order::Hold(A)],
            &[
                (Fact::Done, &[Order::Stop(Old, A)]),
                (Fact::Stopped, &[Order::Start(New, A)]),
                (Fact::Started, &[Order::Dial(New, A)]),
                (refused(), &[Order::Stop(New, A)]),
                (Fact::Stopped, &[Order::Start(Old, A)]),
                (Fact::Started, &[Order::Dial(Old, A)]),
                // It was reached before, so its sender may as well go on dialing.
                (refused(), &[Order::Release(A), finish(Some("no"))]),
            ],
        );
    }

    #[test]
    fn what_nobody_runs_any_more_is_lost_and_the_rest_goes_back() {
        play(
            &[(A, SymbolKind::Function), (B, SymbolKind::Sink)],
            &[Order::Start(New, A)],
            &[
                (Fact::Started, &[Order::Turn(New, A)]),
                (Fact::Done, &[Order::Hold(B)]),
                (Fact::Done, &[Order::Stop(Old, B)]),
                (Fact::Stopped, &[Order::Start(New, B)]),
                (refused(), &[Order::Start(Old, B)]),
                (
                    refused(),
                    &[
                        Order::Lose(B, "no".to_owned()),
                        Order::Release(B),
                        Order::Turn(Old, A),
                    ],
                ),
                (Fact::Done, &[finish(Some("no"))]),
            ],
        );
    }
}
