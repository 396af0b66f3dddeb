//! What is safe of what a source brought: a source that can go on from an offset is told one only when every sink
//! of the rule is done with everything before it. Pure bookkeeping behind a lock; the source's node asks, the sinks'
//! nodes report.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

/// The batches with an offset that are on their way through a rule.
#[derive(Default)]
pub(super) struct Ledger {
    open: Mutex<Open>,
    changed: Notify,
}

#[derive(Default)]
struct Open {
    /// The number of the first of `entries`.
    first: u64,
    entries: VecDeque<Entry>,
    /// Marks that somebody holds.
    marks: usize,
}

struct Entry {
    offset: Value,
    /// Sinks that are not done with it.
    sinks: usize,
}

/// Travels with the last rows of a batch that has an offset. Dropped without a word, the batch is never safe.
pub(super) struct Mark {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Ledger {
    /// A batch sets out for so many sinks.
    pub(super) fn open(self: &Arc<Self>, offset: Value, sinks: usize) -> Mark {
        let mut open = self.lock();
        open.entries.push_back(Entry { offset, sinks });
        open.marks += 1;
        Mark {
            ledger: Arc::clone(self),
            number: open.first + open.entries.len() as u64 - 1,
        }
    }

    /// The offset up to which everything is safe; `None` when nothing has become so since the last call.
    pub(super) fn take_safe(&self) -> Option<Value> {
        let mut open = self.lock();
        let mut safe = None;
        while open.entries.front().is_some_and(|entry| entry.sinks == 0) {
            safe = open.entries.pop_front().map(|entry| entry.offset);
            open.first += 1;
        }
        safe
    }

    /// Waits until [`take_safe`](Self::take_safe) may have something. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until nobody holds a mark any more: nothing will become safe then. Cancel safe.
    pub(super) async fn closed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().marks == 0 {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    /// One of the sinks is done with the batch and with everything before it.
    pub(super) fn settle(self) {
        let mut open = self.ledger.lock();
        let place = self.number.checked_sub(open.first);
        let entry = place.and_then(|place| open.entries.get_mut(usize::try_from(place).ok()?));
        if let Some(entry) = entry {
            entry.sinks = entry.sinks.saturating_sub(1);
        }
    }
}

impl Clone for Mark {
    fn clone(&self) -> Self {
        self.ledger.lock().marks += 1;
        Self {
            ledger: Arc::clone(&self.ledger),
            number: self.number,
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.ledger.lock().marks -= 1;
        self.ledger.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_the_last_mark_is_woken_by_it() {
        let ledger = Arc::<Ledger>::default();
        ledger.closed().await;
        let mark = ledger.open(1.into(), 1);
        let other = mark.clone();
        tokio::join!(ledger.closed(), async {
            mark.settle();
            drop(other);
        });
        assert_eq!(ledger.take_safe(), Some(1.into()));
    }

    #[test]
    fn an_offset_is_safe_when_all_sinks_are_done_with_everything_before_it() {
        let ledger = Arc::<Ledger>::default();
        let first = ledger.open(1.into(), 2);
        let second = ledger.open(2.into(), 1);
        let third = ledger.open(3.into(), 1);
        assert_eq!(ledger.take_safe(), None);
        second.settle();
        first.clone().settle();
        assert_eq!(ledger.take_safe(), None, "one sink is not done with the first");
        first.settle();
        assert_eq!(ledger.take_safe(), Some(2.into()));
        assert_eq!(ledger.take_safe(), None);
        drop(third);
        let fourth = ledger.open(4.into(), 1);
        fourth.settle();
        assert_eq!(ledger.take_safe(), None, "the third was lost");
    }
}
