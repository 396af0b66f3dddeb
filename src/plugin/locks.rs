//! Owns who may change what: one change at a time for each name, any number for different names. Knows nothing
//! of what a change is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// Locks by name. They take no room while nobody holds them or waits for them.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<Lock>>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
