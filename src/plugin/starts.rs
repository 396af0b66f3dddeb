//! Owns how many plugins may be starting at the same time. What takes longer waits more than it works, and may hang:
//! it makes room for another one, but for as many only as may be starting at all. So one that hangs keeps nobody
//! waiting, and twice the limit is never passed. Knows nothing of plugins.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout;

/// How long a start keeps others from starting, as long as there is room among the late ones.
const BUSY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Starts {
    busy: Semaphore,
    late: Semaphore,
}

impl Starts {
    /// At most `limit` are busy, and as many late.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            busy: Semaphore::new(limit),
            late: Semaphore::new(limit),
        }
    }

    /// Does the work in its turn. `queued` hears whether it waits for that; only when it has to. `None`: there are no
    /// more turns.
    ///
    /// # Cancel safety
    /// The work is dropped where it stands, and its turn is over.
    pub(super) async fn run<T>(&self, queued: impl Fn(bool), work: impl Future<Output = T>) -> Option<T> {
        let turn = match self.busy.try_acquire() {
            Err(TryAcquireError::NoPermits) => {
                queued(true);
                let turn = self.busy.acquire().await;
                queued(false);
                turn.ok()?
            }
            turn => turn.ok()?,
        };
        let mut work = pin!(work);
        if let Ok(outcome) = timeout(BUSY, &mut work).await {
            return Some(outcome);
        }
        tokio::select! {
            biased;
            outcome = &mut work => Some(outcome),
            late = self.late.acquire() => {
                drop(turn);
                let outcome = work.await;
                drop(late);
                Some(outcome)
            }
        }
    }

    /// From now on nobody gets a turn; what has begun goes on.
    pub(super) fn close(&self) {
        self.busy.close();
        self.late.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    /// Starts `count` works that each take until the notice, and tells how many have begun.
    fn begin(starts: &Arc<Starts>, count: usize, end: &Arc<Notify>) -> (JoinSet<()>, Arc<AtomicUsize>) {
        let begun = Arc::new(AtomicUsize::new(0));
        let mut works = JoinSet::new();
        for _ in 0..count {
            let (starts, end, begun) = (Arc::clone(starts), Arc::clone(end), Arc::clone(&begun));
            works.spawn(async move {
                let work = async {
                    begun.fetch_add(1, Ordering::Relaxed);
                    end.notified().await;
                };
                starts.run(|_| {}, work).await;
            });
        }
        (works, begun)
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_makes_room_for_others_but_not_for_any_number() {
        let (starts, end) = (Arc::new(Starts::new(2)), Arc::new(Notify::new()));
        let (_works, begun) = begin(&starts, 10, &end);
        sleep(BUSY / 2).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        sleep(BUSY).await;
        assert_eq!(begun.load(Ordering::Relaxed), 4, "the first two are late");
        sleep(100 * BUSY).await;
        assert_eq!(
            begun.load(Ordering::Relaxed),
            4,
            "and so are these, and there is no room"
        );
        end.notify_one();
        sleep(BUSY / 2).await;
        assert_eq!(begun.load(Ordering::Relaxed), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_to_wait_is_told_and_in_the_end_nobody_gets_a_turn() {
        let (starts, end) = (Arc::new(Starts::new(1)), Arc::new(Notify::new()));
        let (mut works, begun) = begin(&starts, 1, &end);
        sleep(BUSY / 2).await;
        let told = std::sync::Mutex::new(Vec::new());
        let waits = starts.run(|waits| told.lock().unwrap().push(waits), async {});
        let ends = async {
            sleep(BUSY / 4).await;
            assert_eq!(*told.lock().unwrap(), [true]);
            end.notify_one();
        };
        assert_eq!(tokio::join!(waits, ends).0, Some(()));
        assert_eq!(*told.lock().unwrap(), [true, false]);
        works.join_next().await;
        starts.close();
        assert_eq!(starts.run(|_| {}, async {}).await, None);
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }
}
