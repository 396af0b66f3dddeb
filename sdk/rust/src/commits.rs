//! Owns what a source has sent and the host has not yet said to be safe: the offsets of its batches.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

/// Offsets that are remembered. Beyond it every other one is forgotten: what is safe is then told a little later.
const MAX_BATCHES: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Commits {
    state: Mutex<State>,
    safe: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By batch, the oldest first.
    sent: VecDeque<(u64, Value)>,
    /// Up to here it is safe, and the source has not heard of it.
    safe: Option<Value>,
}

impl Commits {
    /// A batch is on its way.
    pub(crate) fn sent(&self, seq: u64, offset: Value) {
        self.with(|state| {
            if state.sent.len() >= MAX_BATCHES {
                let mut keep = false;
                state.sent.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            state.sent.push_back((seq, offset));
        });
    }

    /// Everything up to this batch is safe.
    pub(crate) fn commit(&self, seq: u64) {
        let is_news = self.with(|state| {
            let count = state.sent.partition_point(|(sent, _)| *sent <= seq);
            let newest = state.sent.drain(..count).next_back();
            let is_news = newest.is_some();
            if let Some((_, offset)) = newest {
                state.safe = Some(offset);
            }
            is_news
        });
        if is_news {
            self.safe.notify_waiters();
        }
    }

    /// The offset up to which everything is safe, once it is a newer one than at the call before.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Value {
        loop {
            let mut told = pin!(self.safe.notified());
            told.as_mut().enable();
            if let Some(offset) = self.with(|state| state.safe.take()) {
                return offset;
            }
            told.await;
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn the_newest_safe_offset_is_told_once() {
        let commits = Commits::default();
        for seq in 1..=4 {
            commits.sent(seq, json!(seq * 10));
        }
        commits.commit(3);
        assert_eq!(commits.next().await, 30);
        // Nothing new.
        commits.commit(2);
        let (next, ()) = tokio::join!(commits.next(), async { commits.commit(9) });
        assert_eq!(next, 40);
    }

    #[tokio::test]
    async fn however_many_batches_are_open_few_are_remembered() {
        let commits = Commits::default();
        for seq in 1..=100_000 {
            commits.sent(seq, json!(seq));
        }
        assert!(commits.with(|state| state.sent.len()) <= MAX_BATCHES);
        commits.commit(100_000);
        assert_eq!(commits.next().await, 100_000);
    }
}
