//! Owns the limits that turn a hang into a failure. They are generous: a slow machine never meets them, and
//! no test may draw a conclusion from how long something took.

use std::time::Duration;

/// Long enough for anything that a test waits for on a busy machine, short enough to end a hung run.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`, at most [`PATIENCE`]. Needs a tokio runtime with its timer enabled.
///
/// # Panics
/// When it takes longer; `what` says what the test was waiting for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}
