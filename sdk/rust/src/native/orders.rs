//! Owns the order to end, which the session gives to a use once, and the times that go with it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How a use is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With everything that it has; a sink with all batches up to this one, or with those that are there.
    Drained(Option<u64>),
    /// At once: the host is gone.
    Broken,
}

/// The order to end.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) end: End,
    /// Then a symbol that had work left is told that it has to stop.
    half: Instant,
    /// Then the author's code is dropped.
    grace: Instant,
    /// Then all of it is.
    deadline: Instant,
}

impl Order {
    /// The use has ended within `timeout`; the author's code gets no more than `grace` of it.
    pub(super) fn within(timeout: Duration, grace: Duration, end: End) -> Self {
        let now = Instant::now();
        let grace = grace.min(timeout * 3 / 4);
        Self {
            end,
            half: now + grace / 2,
            grace: now + grace,
            // Some of it is for the way of the answer.
            deadline: now + timeout * 9 / 10,
        }
    }
}

/// Where a use hears that it has to end.
#[derive(Debug, Default)]
pub(super) struct Orders {
    order: OnceLock<Order>,
    /// The request to be answered when it has ended.
    answer: Mutex<Option<u64>>,
    given: CancellationToken,
}

impl Orders {
    /// False: there is an order already.
    pub(super) fn give(&self, order: Order, answer: Option<u64>) -> bool {
        let is_first = self.order.set(order).is_ok();
        if is_first {
            *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
            self.given.cancel();
        }
        is_first
    }

    pub(super) fn end(&self) -> Option<End> {
        self.order.get().map(|order| order.end)
    }

    /// The request that is to be answered, once.
    pub(super) fn take_answer(&self) -> Option<u64> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Completes when there is an order.
    pub(super) async fn given(&self) {
        self.given.cancelled().await;
    }

    /// Completes when half of the author's time is over.
    pub(super) async fn half(&self) {
        self.given().await;
        if let Some(order) = self.order.get() {
            sleep_until(order.half).await;
        }
    }

    /// Completes when the author's code has had its time.
    pub(super) async fn grace(&self) {
        self.given().await;
        if let Some(order) = self.order.get() {
            sleep_until(order.grace).await;
        }
    }

    /// Completes when the time is up.
    pub(super) async fn deadline(&self) {
        self.given().await;
        if let Some(order) = self.order.get() {
            sleep_until(order.deadline).await;
        }
    }
}
