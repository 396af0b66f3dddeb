//! A future that is dropped at one of its await points.

use crate::support::bounded;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use tokio::task::coop;

/// More polls than any of these futures needs.
pub(crate) const ENOUGH: usize = 2000;

/// Polls `future` so many times and drops it; its output if it was ready by then.
pub(crate) async fn polled<F: Future>(
    future: F,
    polls: usize,
    mut step: impl AsyncFnMut(),
) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
        step().await;
    }
    None
}

/// The same future, polled for the first time when nothing is left of the task's budget.
pub(crate) async fn at_the_end_of_a_turn<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            while coop::has_budget_remaining() {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// Runs `case` with ever more polls until it says that its future was ready.
pub(crate) async fn at_every_point(mut case: impl AsyncFnMut(usize) -> bool) {
    for polls in 0..ENOUGH {
        if bounded(case(polls)).await {
            assert!(polls > 0, "a future does nothing before it is polled");
            return;
        }
    }
    panic!("never ready");
}

/// Waits for what other tasks are about to do.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    bounded(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
