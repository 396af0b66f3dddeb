//! The task that calls a pattern when its time has come. Knows no pattern: when that is, the pattern says.

use crate::engine::core::Core;
use crate::engine::now;
use crate::pattern::{ContextId, Pattern};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Keeps the time of this socket's pattern until the socket is closed.
pub(crate) async fn run<P: Pattern>(core: Arc<Core<P>>) {
    let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let next = core.with(|state| {
                if state.closed {
                    return Err(());
                }
                // Woken like the receiver of a context: the pattern makes it ready.
                state.contexts.insert(ContextId::TIMER, cx.waker().clone());
                Ok(state.pattern.handle_timeout(&mut state.pipes, now()))
            });
            match next {
                Err(()) => return Poll::Ready(()),
                Ok(None) => return Poll::Pending,
                Ok(Some(at)) => alarm.as_mut().reset(at.into()),
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}
