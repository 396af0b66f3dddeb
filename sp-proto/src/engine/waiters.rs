//! The queue of those who wait for the same thing, first come first served.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What becomes of the place of one that is woken and does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is kept: a future is polled once it is woken, or dropped.
    Kept,
    /// Others are let past meanwhile: a stream or sink may be left alone for long.
    Yielded,
}

/// Those who wait, in the order in which they came. The first is woken when there is something for it;
/// when it leaves, served or cancelled, the next is.
///
/// ```text
///   Waiting ──first, and woken──▶ Called ──looked after──▶ Late ──looked after──▶ passed over
///    ▲                              │                       │                         │
///    └───────polled, and found nothing: at the place that it had from the beginning───┘
/// ```
///
/// Only who yields its place and has somebody behind it is looked after. Who came while it was called and went
/// without counts as such.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    next: u64,
    /// Has somebody else gone without since the first was called?
    refused: bool,
    /// Sorted by ticket.
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    place: Place,
    turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Waiting(Waker),
    Called,
    Late,
}

impl Waiter {
    fn call(&mut self) -> Option<Waker> {
        match std::mem::replace(&mut self.turn, Turn::Called) {
            Turn::Waiting(waker) => Some(waker),
            called => {
                self.turn = called;
                None
            }
        }
    }
}

impl Waiters {
    /// Is it this one's turn, or a newcomer's?
    pub(crate) fn is_turn(&self, ticket: Option<Ticket>) -> bool {
        match self.queue.front() {
            None => true,
            // One that was passed over still goes before those who came later.
            Some(first) => ticket.is_some_and(|ticket| ticket <= first.ticket),
        }
    }

    /// Waits, at the place it has or at the end.
    pub(crate) fn wait(&mut self, ticket: &mut Option<Ticket>, place: Place, waker: &Waker) {
        let ticket = *ticket.get_or_insert_with(|| {
            self.next += 1;
            Ticket(self.next)
        });
        match self.place(ticket) {
            Ok(at) => {
                if let Some(Waiter { turn, .. }) = self.queue.get_mut(at)
                    && !matches!(turn, Turn::Waiting(old) if old.will_wake(waker))
                {
                    *turn = Turn::Waiting(waker.clone());
                }
            }
            Err(at) => self.queue.insert(
                at,
                Waiter {
                    ticket,
                    place,
                    turn: Turn::Waiting(waker.clone()),
                },
            ),
        }
    }

    /// Leaves the queue.
    pub(crate) fn leave(&mut self, ticket: &mut Option<Ticket>) {
        if let Some(Ok(at)) = ticket.take().map(|ticket| self.place(ticket)) {
            self.queue.remove(at);
            if at > 0 {
                self.refuse();
            }
        }
    }

    /// A newcomer goes without, and may come again as often as it likes.
    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    /// The waker of the first, unless it is already woken.
    pub(crate) fn wake_first(&mut self) -> Option<Waker> {
        let waker = self.queue.front_mut()?.call()?;
        self.refused = false;
        Some(waker)
    }

    /// The wakers of all.
    pub(crate) fn wake_all(&mut self) -> impl Iterator<Item = Waker> {
        self.queue.iter_mut().filter_map(Waiter::call)
    }

    /// Do others wait behind one that was woken and may not come?
    pub(crate) fn is_held_up(&self) -> bool {
        let Some(first) = self.queue.front() else {
            return false;
        };
        let behind = self.refused || self.queue.len() > 1;
        behind && first.place == Place::Yielded && !matches!(first.turn, Turn::Waiting(_))
    }

    /// Looks after the first. If it was woken and has not come since the last look, the next is the first.
    pub(crate) fn look(&mut self) {
        if !self.is_held_up() {
            return;
        }
        match self.queue.front_mut() {
            Some(Waiter { turn, .. }) if matches!(turn, Turn::Called) => *turn = Turn::Late,
            _ => drop(self.queue.pop_front()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Where it is, or would have to be.
    fn place(&self, ticket: Ticket) -> Result<usize, usize> {
        self.queue.binary_search_by_key(&ticket, |waiter| waiter.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn taken(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    type Waiting = (Option<Ticket>, Arc<Count>);

    /// Three that wait in a row.
    fn row(place: Place) -> (Waiters, [Waiting; 3]) {
        let mut waiters = Waiters::default();
        let row = std::array::from_fn(|_| {
            let (mut ticket, count) = (None, Arc::<Count>::default());
            waiters.wait(&mut ticket, place, &Arc::clone(&count).into());
            (ticket, count)
        });
        (waiters, row)
    }

    fn wake(waiters: &mut Waiters) {
        waiters.wake_first().into_iter().for_each(Waker::wake);
    }

    #[test]
    fn first_come_first_served() {
        let (mut waiters, mut row) = row(Place::Kept);
        assert!(!waiters.is_turn(None), "a newcomer waits behind the others");
        for (ticket, count) in &mut row {
            assert!(waiters.is_turn(*ticket));
            wake(&mut waiters);
            wake(&mut waiters);
            assert_eq!(count.taken(), 1, "woken once, however often there is reason to");
            waiters.leave(ticket);
        }
        assert!(waiters.is_empty() && waiters.is_turn(None));
    }

    #[test]
    fn one_that_finds_nothing_keeps_its_place() {
        let (mut waiters, mut row) = row(Place::Kept);
        wake(&mut waiters);
        let (ticket, count) = &mut row[0];
        waiters.wait(ticket, Place::Kept, &Arc::clone(count).into());
        wake(&mut waiters);
        assert_eq!(count.taken(), 2);
        assert_eq!(row[1].1.taken(), 0);
    }

    #[test]
    fn one_that_is_cancelled_makes_way() {
        let (mut waiters, mut row) = row(Place::Kept);
        wake(&mut waiters);
        waiters.leave(&mut row[1].0);
        waiters.leave(&mut row[0].0);
        wake(&mut waiters);
        assert_eq!(row.map(|(_, count)| count.taken()), [1, 0, 1]);
    }

    #[test]
    fn one_that_keeps_its_place_is_waited_for() {
        let (mut waiters, row) = row(Place::Kept);
        wake(&mut waiters);
        assert!(!waiters.is_held_up());
        waiters.look();
        waiters.look();
        wake(&mut waiters);
        assert_eq!(row.map(|(_, count)| count.taken()), [1, 0, 0]);
    }

    #[test]
    fn one_that_yields_and_does_not_come_is_passed_over_and_keeps_its_rank() {
        let (mut waiters, mut row) = row(Place::Yielded);
        assert!(!waiters.is_held_up(), "nobody is woken yet");
        wake(&mut waiters);
        assert!(waiters.is_held_up());
        waiters.look();
        assert!(!waiters.is_turn(row[1].0), "it may be on its way");
        waiters.look();
        assert!(waiters.is_turn(row[1].0) && !waiters.is_turn(row[2].0));
        wake(&mut waiters);
        let (ticket, count) = &mut row[0];
        assert!(waiters.is_turn(*ticket), "it was there first");
        waiters.wait(ticket, Place::Yielded, &Arc::clone(count).into());
        assert!(!waiters.is_turn(row[1].0) && !waiters.is_held_up());
        wake(&mut waiters);
        assert_eq!(row.map(|(_, count)| count.taken()), [2, 1, 0]);
    }

    #[test]
    fn one_that_comes_back_is_looked_after_anew() {
        let (mut waiters, mut row) = row(Place::Yielded);
        wake(&mut waiters);
        waiters.look();
        let (ticket, count) = &mut row[0];
        waiters.wait(ticket, Place::Yielded, &Arc::clone(count).into());
        wake(&mut waiters);
        waiters.look();
        assert!(waiters.is_turn(row[0].0));
        for (ticket, _) in &mut row[1..] {
            waiters.leave(ticket);
        }
        // Both went without, which counts as being behind it until it comes.
        let (ticket, count) = &mut row[0];
        waiters.wait(ticket, Place::Yielded, &Arc::clone(count).into());
        wake(&mut waiters);
        waiters.look();
        waiters.look();
        assert!(
            !waiters.is_held_up() && waiters.is_turn(row[0].0) && !waiters.is_turn(None),
            "nobody is behind it"
        );
    }

    #[test]
    fn one_that_yields_is_passed_over_for_a_newcomer_that_goes_without() {
        let mut waiters = Waiters::default();
        let (mut ticket, count) = (None, Arc::<Count>::default());
        waiters.wait(&mut ticket, Place::Yielded, &Arc::clone(&count).into());
        waiters.refuse();
        wake(&mut waiters);
        assert!(
            !waiters.is_held_up(),
            "what went without before there was something does not count"
        );
        waiters.refuse();
        waiters.look();
        assert!(waiters.is_held_up() && !waiters.is_turn(None));
        waiters.look();
        assert!(waiters.is_turn(None) && !waiters.is_held_up());
        assert!(waiters.is_turn(ticket), "it keeps its rank");
    }
}
