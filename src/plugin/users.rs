//! Owns who uses a plugin: how many symbols each rule holds, which is one count for all of its instances, and which
//! uses were dropped, which each worker has for itself. Values of [`User`] sit in the channels' public handles, whose
//! `drop` can wait for nothing; the worker picks up what they leave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mangrove_protocol::name::SymbolName;
use tokio::sync::Notify;

use super::lifecycle::UseId;

/// How many symbols of a plugin each rule holds.
#[derive(Debug, Default)]
pub(super) struct Rules {
    counts: Mutex<BTreeMap<String, u32>>,
    /// How often each rule uses a function.
    functions: Mutex<BTreeMap<(SymbolName, String), u32>>,
    idle: Notify,
}

/// The users of one instance of a plugin.
#[derive(Debug, Default)]
pub(super) struct Users {
    next: AtomicU64,
    rules: Arc<Rules>,
    /// Uses that were dropped, for the worker; at most as many as were opened.
    left: Mutex<Vec<UseId>>,
    changed: Notify,
}

impl Rules {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        lock(&self.counts)
    }

    /// Whether this rule uses the function.
    pub(super) fn call(&self, function: &SymbolName, rule: &str) -> bool {
        lock(&self.functions).contains_key(&(function.clone(), rule.to_owned()))
    }
}

impl Users {
    /// Nobody yet, of a plugin that `rules` may use elsewhere already.
    pub(super) fn of(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// An id that was never used before.
    pub(super) fn next_id(&self) -> UseId {
        UseId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts `rule` as a user until the returned value is dropped; then the worker is told that the use
    /// `id`, if there is one, is over.
    pub(super) fn enter(self: &Arc<Self>, rule: &str, id: Option<UseId>) -> User {
        *self.rules.lock().entry(rule.to_owned()).or_default() += 1;
        User {
            users: Arc::clone(self),
            rule: rule.to_owned(),
            id,
            function: None,
        }
    }

    /// The same for a function.
    pub(super) fn enter_function(self: &Arc<Self>, rule: &str, function: &SymbolName) -> User {
        let place = (function.clone(), rule.to_owned());
        *lock(&self.rules.functions).entry(place.clone()).or_default() += 1;
        let mut user = self.enter(rule, None);
        user.function = Some(place);
        user
    }

    /// How many symbols each rule uses.
    pub(super) fn rules(&self) -> BTreeMap<String, u32> {
        self.rules.lock().clone()
    }

    /// Waits until no rule uses the plugin any more.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(super) async fn idle(&self) {
        let mut idle = std::pin::pin!(self.rules.idle.notified());
        loop {
            // Listens before it looks, so that the last one's leave is not missed.
            idle.as_mut().enable();
            if self.rules.lock().is_empty() {
                return;
            }
            idle.as_mut().await;
            idle.set(self.rules.idle.notified());
        }
    }

    /// Waits until somebody has left.
    ///
    /// # Cancel safety
    /// Nothing is lost: what has been left stays until [`Users::take_left`].
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The uses that were dropped since the last time.
    pub(super) fn take_left(&self) -> Vec<UseId> {
        std::mem::take(&mut lock(&self.left))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One use of a plugin by a rule.
#[derive(Debug)]
pub(super) struct User {
    users: Arc<Users>,
    rule: String,
    id: Option<UseId>,
    function: Option<(SymbolName, String)>,
}

impl Drop for User {
    fn drop(&mut self) {
        lock(&self.users.left).extend(self.id);
        if let Some(place) = self.function.take() {
            leave(&mut lock(&self.users.rules.functions), &place);
        }
        let mut rules = self.users.rules.lock();
        leave(&mut rules, &self.rule);
        let idle = rules.is_empty();
        drop(rules);
        self.users.changed.notify_one();
        if idle {
            self.users.rules.idle.notify_waiters();
        }
    }
}

fn leave<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn rules_are_counted_and_what_was_dropped_is_handed_over_once() {
        let users = Arc::new(Users::default());
        let id = users.next_id();
        let first = users.enter("r1", Some(id));
        let second = users.enter("r1", None);
        assert_eq!(users.rules(), [("r1".to_owned(), 2)].into());
        drop(first);
        users.changed().await;
        assert_eq!(users.take_left(), [id]);
        assert!(users.take_left().is_empty());
        drop(second);
        assert!(users.rules().is_empty());
        assert_ne!(users.next_id(), id);
    }

    #[tokio::test]
    async fn rules_are_counted_over_all_instances_and_each_worker_gets_what_left_it() {
        let rules = Arc::new(Rules::default());
        let (one, other) = (
            Arc::new(Users::of(Arc::clone(&rules))),
            Arc::new(Users::of(Arc::clone(&rules))),
        );
        let id = other.next_id();
        let (first, second) = (one.enter("r1", Some(one.next_id())), other.enter("r1", Some(id)));
        assert_eq!(one.rules(), [("r1".to_owned(), 2)].into());
        drop(second);
        assert_eq!((one.take_left(), other.take_left()), (vec![], vec![id]));
        assert_eq!(other.rules(), [("r1".to_owned(), 1)].into());
        drop(first);
        other.idle().await;
    }

    #[test]
    fn a_rule_uses_a_function_as_long_as_it_holds_it() {
        let users = Arc::new(Users::default());
        let [rank, total] = ["rank", "total"].map(|name| name.parse().unwrap());
        let (first, second) = (
            users.enter_function("r1", &rank),
            users.enter_function("r1", &rank),
        );
        let rules = &users.rules;
        assert!(rules.call(&rank, "r1") && !rules.call(&total, "r1") && !rules.call(&rank, "r2"));
        drop(first);
        assert!(rules.call(&rank, "r1"));
        drop(second);
        assert!(!rules.call(&rank, "r1") && users.rules().is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_the_last_rule_is_woken_by_it() {
        let users = Arc::new(Users::default());
        users.idle().await;
        let (first, second) = (users.enter("r1", None), users.enter("r2", None));
        let mut idle = std::pin::pin!(users.idle());
        let mut pending = async || tokio::time::timeout(Duration::ZERO, idle.as_mut()).await.is_err();
        assert!(pending().await);
        drop(first);
        assert!(pending().await);
        drop(second);
        idle.await;
    }
}
