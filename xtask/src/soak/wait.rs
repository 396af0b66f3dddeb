//! Owns waiting for something that only looking can tell, with a limit.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

/// How long what takes milliseconds may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds what it looks for. Its errors say what there is instead; the last one is shown.
///
/// # Errors
/// It was not there within [`PATIENCE`].
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(instead) if Instant::now() >= deadline => {
                return Err(instead.context(format!("not after {} s: {what}", PATIENCE.as_secs())));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
