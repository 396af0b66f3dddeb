//! Owns who may speak on a plugin's channels. Their addresses are known to every local user, so a peer has to be
//! a process of the host's own user, and one that the host started for this plugin, something that it started, or
//! the one that was attached. Asked by the plugin's sockets, before a connection means anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use sp_proto::{Admission, Credentials, PipeInfo};

use super::guard::descends;

/// Between two lines in the log about refused peers of one plugin.
const QUIET: Duration = Duration::from_secs(10);

/// The processes of one plugin, and how many others were refused.
#[derive(Debug)]
pub(super) struct Peers {
    plugin: String,
    /// Is every process of this user one of them, always?
    any: bool,
    /// And now, while an author is to attach one?
    attaching: AtomicBool,
    /// The guards of those that the host started, and what is attached.
    roots: Mutex<Vec<Pid>>,
    refused: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Peers {
    /// Nobody yet; or, with `any`, every process of this user.
    pub(super) fn new(plugin: &str, any: bool) -> Self {
        Self {
            plugin: plugin.to_owned(),
            any,
            attaching: AtomicBool::new(false),
            roots: Mutex::default(),
            refused: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// From now on `root` and what descends from it may connect.
    pub(super) fn enter(&self, root: Pid) {
        self.roots().push(root);
    }

    /// Its end.
    pub(super) fn leave(&self, root: Pid) {
        self.roots().retain(|pid| *pid != root);
    }

    /// Whether any process of this user may connect, to be attached.
    pub(super) fn set_attaching(&self, attaching: bool) {
        self.attaching.store(attaching, Ordering::Relaxed);
    }

    /// How many connections were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The rule, for the options of a socket.
    pub(super) fn admission(self: &Arc<Self>) -> Admission {
        let peers = Arc::clone(self);
        Admission::new(move |peer| peers.check(peer))
    }

    fn check(&self, peer: &PipeInfo) -> Result<(), String> {
        self.check_credentials(peer.credentials).inspect_err(|reason| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|at| at.elapsed() >= QUIET) {
                *told = Some(Instant::now());
                let (plugin, refused) = (&self.plugin, self.refused());
                tracing::warn!(plugin, refused, "refused a connection: {reason}");
            }
        })
    }

    fn check_credentials(&self, found: Option<Credentials>) -> Result<(), String> {
        let host = rustix::process::geteuid().as_raw();
        let Some(found) = found else {
            return Err("it is not known whose process the peer is".to_owned());
        };
        if found.uid != host {
            let user = found.uid;
            return Err(format!("a process of user {user}; only user {host} may connect"));
        }
        let pid = found
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let belongs = |pid| self.roots().iter().any(|root| descends(pid, *root));
        let any = self.any || self.attaching.load(Ordering::Relaxed);
        if any || pid.is_some_and(belongs) {
            return Ok(());
        }
        let plugin = &self.plugin;
        Err(match found.pid {
            Some(pid) => format!("process {pid} was not started by the plugin \"{plugin}\""),
            None => format!("it is not known whether the peer was started by the plugin \"{plugin}\""),
        })
    }

    fn roots(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(uid: u32, pid: Option<Pid>) -> Option<Credentials> {
        let pid = pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        Some(Credentials { pid, uid, gid: 0 })
    }

    #[test]
    fn only_the_plugins_own_processes_may_connect() {
        let user = rustix::process::geteuid().as_raw();
        let (us, parent) = (rustix::process::getpid(), rustix::process::getppid());
        let peers = Peers::new("car", false);
        let check = |found| peers.check_credentials(found);
        assert!(check(credentials(user, Some(us))).is_err(), "nobody has entered");
        peers.enter(us);
        assert_eq!(check(credentials(user, Some(us))), Ok(()));
        assert!(
            check(credentials(user, parent))
                .unwrap_err()
                .contains("was not started by")
        );
        assert!(
            check(credentials(user + 1, Some(us)))
                .unwrap_err()
                .contains("only user")
        );
        assert!(check(credentials(user, None)).is_err() && check(None).is_err());
        peers.leave(us);
        assert!(check(credentials(user, Some(us))).is_err());
    }

    #[test]
    fn any_process_of_the_user_may_be_enough_but_no_other_users() {
        let user = rustix::process::geteuid().as_raw();
        let peers = Peers::new("car", true);
        assert_eq!(peers.check_credentials(credentials(user, None)), Ok(()));
        assert!(peers.check_credentials(credentials(user + 1, None)).is_err());
        let peers = Peers::new("car", false);
        peers.set_attaching(true);
        assert_eq!(peers.check_credentials(credentials(user, None)), Ok(()));
        peers.set_attaching(false);
        assert!(peers.check_credentials(credentials(user, None)).is_err());
    }
}
