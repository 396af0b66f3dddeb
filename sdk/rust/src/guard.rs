//! Owns the line between the author's code and ours: a panic on the other side becomes an error on this one.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

/// The author's code panicked. The panic itself, with its place, is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {message}")]
pub(crate) struct Panicked {
    message: String,
}

/// Runs a future of the author's; a panic inside ends it with [`Panicked`].
///
/// What the future borrowed may be half changed then, which is the author's to bear: it is the bargain that every
/// server makes which goes on after a handler's panic. Memory stays safe.
pub(crate) async fn guard<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => std::task::Poll::Ready(Err(Panicked::new(payload.as_ref()))),
        },
    )
    .await
}

/// The same for a plain call.
pub(crate) fn guard_call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked::new(payload.as_ref()))
}

impl Panicked {
    pub(crate) fn new(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Self { message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let wheel = 3;
        let result: Result<(), Panicked> = guard(async { panic!("wheel {wheel} fell off") }).await;
        assert_eq!(result.unwrap_err().to_string(), "panicked: wheel 3 fell off");
        assert_eq!(guard(async { 7 }).await, Ok(7));
        let error = guard_call(|| -> u8 { panic!("flat") }).unwrap_err();
        assert_eq!(error.to_string(), "panicked: flat");
    }
}
