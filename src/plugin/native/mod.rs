//! Mangrove's own contract, the host's side of it. The worker makes one `session` per process and hands it what
//! the life cycle decides; sources, sinks and functions have one data channel per use and process.
//!
//! | | module | what it owns |
//! |---|---|---|
//! | pure | `opening` | whether a `hello` is taken |
//! | pure | `window` | which results a sink owes an acknowledgement for |
//! | pure | `commits` | when a source is told that its batches are safe |
//! | pure | `flight` | which calls of a function are under way |
//! | I/O | `remote` | what is different for a plugin on another machine |
//! | I/O | `run` | the folder of the sockets |
//! | I/O | `session` | the control channel of one process |
//! | I/O | `desk` | what a session knows of the uses, requests and faults of its process |
//! | I/O | `feed` | the data channel of a source |
//! | I/O | `outlet` | the data channel of a sink |
//! | I/O | `link` | the channel of a function |
//!
//! A process that speaks the other contract never gets beyond the listener of its session, which is closed then.

mod commits;
mod desk;
pub(super) mod feed;
mod flight;
pub(super) mod link;
mod opening;
pub(super) mod outlet;
mod remote;
mod run;
pub(super) mod session;
mod window;

pub(super) use desk::offset_key;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::States;
use mangrove_protocol::native::opening::Limits;

use crate::config::Portable;

/// About how many bytes a message has at most that the host puts together out of many items.
const BATCH_BYTES: usize = 256 * 1024;

/// How long what a process has said before it ended is still read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the sessions of all plugins share.
#[derive(Debug)]
pub(super) struct Native {
    run: PathBuf,
    next: AtomicU64,
    numbers: AtomicU64,
    pub(super) states: States,
}

/// A socket that lies elsewhere and is remembered by this link.
#[derive(Debug)]
pub(super) struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It costs nobody anything that stays: the next start removes it.
        let _gone = std::fs::remove_file(&self.0);
    }
}

impl Native {
    /// Prepares the folder of the sockets for the host in `home`. Blocking.
    ///
    /// # Errors
    /// There is no folder that is private and short enough.
    pub(super) fn prepare(home: &Path, states: States) -> std::io::Result<Self> {
        Ok(Self {
            run: run::prepare(home)?,
            next: AtomicU64::new(1),
            numbers: AtomicU64::new(1),
            states,
        })
    }

    /// Remembers a socket that lies where eKuiper's contract wants it, until what this returns is dropped: should the
    /// host be killed, the next one removes what is left of the socket.
    pub(super) async fn note_elsewhere(&self, address: &str) -> Option<Elsewhere> {
        let path = Path::new(address.strip_prefix("ipc://")?);
        let link = self.run.join(path.file_name()?);
        match tokio::fs::symlink(path, &link).await {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::debug!("{address} is not remembered: {error}");
                None
            }
            _ => Some(Elsewhere(link)),
        }
    }

    /// A number for a use in one process. No other use has it, nor this one in another process: whatever comes late
    /// is not taken for something else.
    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// An address on which nobody has listened since the host started.
    fn next_address(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("ipc://{}/{number}.ipc", self.run.display())
    }
}

/// The options of a socket of this contract.
fn options(settings: &Portable, admission: &sp_proto::Admission) -> sp_proto::SocketOptions {
    sp_proto::SocketOptions {
        recv_max_size: settings.max_message,
        admission: admission.clone(),
        ..Default::default()
    }
}

/// What either side accepts.
fn limits(settings: &Portable) -> Limits {
    Limits {
        message: settings.max_message,
        ..Limits::default()
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::peers::Peers;
    use crate::plugin::{socket_options, test_settings};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn sockets_of_both_contracts_are_for_the_hosts_own_user() {
        let (settings, folder) = (test_settings(), tempfile::tempdir().unwrap());
        let peers = Arc::new(Peers::new("car", true, Default::default()));
        let both = [
            options(&settings, &peers.admission()),
            socket_options(&settings, &peers),
        ];
        for (number, options) in both.into_iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let pull = sp_proto::Pull::with_options(options);
            pull.listen(&format!("ipc://{}", path.display())).await.unwrap();
            let mode = path.symlink_metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
