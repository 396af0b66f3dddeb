//! Owns who may change what: one change at a time for each name, any number for different names. Knows nothing
//! of what a change is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};

type Lock = tokio::sync::Mutex<()>;

/// Locks by name. They take no room while nobody holds them or waits for them.
#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: Mutex<HashMap<String, Weak<Lock>>>,
    /// Who waits for a turn and does not want to.
    wishes: watch::Sender<Vec<(String, Haste)>>,
}

/// What is to give way to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Haste {
    /// A start, since something else is to be started.
    Replace,
    /// An installation or update as well, since nothing is to run.
    End,
}

struct Wish<'a>(&'a Locks, (String, Haste));

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.wishes.send_modify(|wishes| {
            let mine = wishes.iter().position(|wish| *wish == self.1);
            mine.map(|mine| wishes.swap_remove(mine));
        });
    }
}

/// Until it is dropped, nobody else changes what has this name.
pub(super) type Locked = OwnedMutexGuard<()>;

impl Locks {
    /// Waits for its turn.
    ///
    /// # Cancel safety
    /// May be dropped; the place in the queue is lost.
    pub(super) async fn lock(&self, name: &str) -> Locked {
        self.of(name).lock_owned().await
    }

    /// Waits for its turn, which comes soon: what `haste` says gives way.
    ///
    /// # Cancel safety
    /// As [`Locks::lock`].
    pub(super) async fn lock_soon(&self, name: &str, haste: Haste) -> Locked {
        let wish = (name.to_owned(), haste);
        self.wishes.send_modify(|wishes| wishes.push(wish.clone()));
        let _wish = Wish(self, wish);
        self.lock(name).await
    }

    /// Whether somebody waits for whom what `haste` says has to give way.
    pub(super) fn is_pressed(&self, name: &str, haste: Haste) -> bool {
        has_wish(&self.wishes.borrow(), name, haste)
    }

    /// Waits until somebody does.
    pub(super) async fn pressed(&self, name: &str, haste: Haste) {
        let mut wishes = self.wishes.subscribe();
        // The sender is not dropped meanwhile.
        let _ = wishes.wait_for(|wishes| has_wish(wishes, name, haste)).await;
    }

    /// `None` when somebody else's turn is not over.
    pub(super) fn try_lock(&self, name: &str) -> Option<Locked> {
        self.of(name).try_lock_owned().ok()
    }

    fn of(&self, name: &str) -> Arc<Lock> {
        let mut locks = self.held();
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = locks.get(name).and_then(Weak::upgrade).unwrap_or_default();
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Weak<Lock>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_wish(wishes: &[(String, Haste)], name: &str, haste: Haste) -> bool {
    wishes
        .iter()
        .any(|(wanted, wish)| wanted == name && *wish >= haste)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_is_changed_by_one_at_a_time_and_leaves_nothing() {
        let locks = Locks::default();
        let car = locks.lock("car").await;
        assert!(locks.try_lock("car").is_none());
        let bus = locks.try_lock("bus").unwrap();
        drop(car);
        drop(locks.try_lock("car").unwrap());
        drop(bus);
        drop(locks.lock("tram").await);
        assert!(locks.held().len() <= 1);
    }

    #[tokio::test]
    async fn who_is_in_haste_is_heard_until_it_is_its_turn() {
        let locks = Locks::default();
        let car = locks.lock("car").await;
        let soon = locks.lock_soon("car", Haste::Replace);
        let begun = async {
            locks.pressed("car", Haste::Replace).await;
            assert!(!locks.is_pressed("car", Haste::End));
            assert!(!locks.is_pressed("bus", Haste::Replace));
            drop(car);
        };
        let (_car, ()) = tokio::join!(soon, begun);
        assert!(!locks.is_pressed("car", Haste::Replace));
        assert!(locks.wishes.borrow().is_empty());
    }
}
