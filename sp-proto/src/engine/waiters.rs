//! The queue of those who wait for the same thing, first come first served.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Futures that wait, in the order in which they came. The first is woken when there is something for it;
/// when it leaves, served or cancelled, the next is.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    next: u64,
    /// Sorted by ticket. No waker: already woken and not yet back.
    queue: VecDeque<(Ticket, Option<Waker>)>,
}

impl Waiters {
    /// Is it this one's turn, or a newcomer's?
    pub(crate) fn is_turn(&self, ticket: Option<Ticket>) -> bool {
        match self.queue.front() {
            None => true,
            Some((first, _)) => Some(*first) == ticket,
        }
    }

    /// Waits, at the place it has or at the end.
    pub(crate) fn wait(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) {
        if let Some(place) = ticket.and_then(|ticket| self.place(ticket)) {
            if let Some((_, slot)) = self.queue.get_mut(place)
                && !slot.as_ref().is_some_and(|old| old.will_wake(waker))
            {
                *slot = Some(waker.clone());
            }
            return;
        }
        self.next += 1;
        let new = Ticket(self.next);
        self.queue.push_back((new, Some(waker.clone())));
        *ticket = Some(new);
    }

    /// Leaves the queue.
    pub(crate) fn leave(&mut self, ticket: &mut Option<Ticket>) {
        if let Some(place) = ticket.take().and_then(|ticket| self.place(ticket)) {
            self.queue.remove(place);
        }
    }

    /// The waker of the first, unless it is already woken.
    pub(crate) fn wake_first(&mut self) -> Option<Waker> {
        self.queue.front_mut().and_then(|(_, waker)| waker.take())
    }

    /// The wakers of all.
    pub(crate) fn wake_all(&mut self) -> impl Iterator<Item = Waker> {
        self.queue.iter_mut().filter_map(|(_, waker)| waker.take())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.queue
            .binary_search_by_key(&ticket, |(ticket, _)| *ticket)
            .ok()
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
    fn row() -> (Waiters, [Waiting; 3]) {
        let mut waiters = Waiters::default();
        let row = std::array::from_fn(|_| {
            let (mut ticket, count) = (None, Arc::<Count>::default());
            waiters.wait(&mut ticket, &Arc::clone(&count).into());
            (ticket, count)
        });
        (waiters, row)
    }

    fn wake(waiters: &mut Waiters) {
        waiters.wake_first().into_iter().for_each(Waker::wake);
    }

    #[test]
    fn first_come_first_served() {
        let (mut waiters, mut row) = row();
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
        let (mut waiters, mut row) = row();
        wake(&mut waiters);
        let (ticket, count) = &mut row[0];
        waiters.wait(ticket, &Arc::clone(count).into());
        wake(&mut waiters);
        assert_eq!(count.taken(), 2);
        assert_eq!(row[1].1.taken(), 0);
    }

    #[test]
    fn one_that_is_cancelled_makes_way() {
        let (mut waiters, mut row) = row();
        wake(&mut waiters);
        waiters.leave(&mut row[1].0);
        waiters.leave(&mut row[0].0);
        wake(&mut waiters);
        assert_eq!(row.map(|(_, count)| count.taken()), [1, 0, 1]);
    }
}
