//! Owns who may speak on a plugin's channels. Their addresses are known to every local user, so a peer has to be
//! a process of the host's own user, and one that the host started for this plugin, something that it started, or
//! the one that was attached. Asked by the plugin's sockets, before a connection means anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sp_proto::{Admission, Credentials, PipeInfo};

use super::events::Changes;
use super::guard::descends;

/// Between two lines in the log about refused peers of one plugin.
const QUIET: Duration = Duration::from_secs(10);

/// Is the plugin one that its author starts?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attaching {
    No,
    /// Whoever comes first is it.
    Waiting,
    /// It is this process.
    To(u32),
}

/// The processes of one plugin, and how many others were refused.
#[derive(Debug)]
pub(super) struct Peers {
    plugin: String,
    /// Is every process of this user one of them, always?
    any: bool,
    /// And now, while an author is to attach one?
    attaching: Mutex<Attaching>,
    /// The guards of those that the host started, and what is attached.
    roots: Mutex<Vec<u32>>,
    refused: AtomicU64,
    changes: Changes,
    told: Mutex<Option<Instant>>,
}

impl Peers {
    /// Nobody yet; or, with `any`, every process of this user. `changes` hears of refusals.
    pub(super) fn new(plugin: &str, any: bool, changes: Changes) -> Self {
        Self {
            plugin: plugin.to_owned(),
            any,
            attaching: Mutex::new(Attaching::No),
            roots: Mutex::default(),
            refused: AtomicU64::new(0),
            changes,
            told: Mutex::default(),
        }
    }

    /// From now on `root` and what descends from it may connect.
    pub(super) fn enter(&self, root: u32) {
        self.roots().push(root);
    }

    /// Its end.
    pub(super) fn leave(&self, root: u32) {
        self.roots().retain(|pid| *pid != root);
    }

    /// Which process that the host has not started may connect.
    pub(super) fn set_attaching(&self, attaching: Attaching) {
        *self.attaching.lock().unwrap_or_else(PoisonError::into_inner) = attaching;
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

    /// Counts a refused connection, and says so now and then.
    pub(super) fn note_refused(&self, reason: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.changes.note();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= QUIET) {
            *told = Some(Instant::now());
            let (plugin, refused) = (&self.plugin, self.refused());
            tracing::warn!(plugin, refused, "refused a connection: {reason}");
        }
    }

    fn check(&self, peer: &PipeInfo) -> Result<(), String> {
        let checked = self.check_credentials(peer.credentials);
        checked.inspect_err(|reason| self.note_refused(reason))
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
        let attaching = *self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let is_attached = match attaching {
            Attaching::No => false,
            Attaching::Waiting => true,
            Attaching::To(author) => found.pid.is_some_and(|pid| descends(pid, author)),
        };
        let belongs = |pid| self.roots().iter().any(|root| descends(pid, *root));
        if self.any || is_attached || found.pid.is_some_and(belongs) {
            return Ok(());
        }
        let plugin = &self.plugin;
        Err(match found.pid {
            Some(pid) => format!("process {pid} was not started by the plugin \"{plugin}\""),
            None => format!("it is not known whether the peer was started by the plugin \"{plugin}\""),
        })
    }

    fn roots(&self) -> MutexGuard<'_, Vec<u32>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(uid: u32, pid: Option<u32>) -> Option<Credentials> {
        Some(Credentials { pid, uid, gid: 0 })
    }

    #[test]
    fn only_the_plugins_own_processes_may_connect() {
        let user = rustix::process::geteuid().as_raw();
        let (us, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let peers = Peers::new("car", false, Changes::default());
        let check = |found| peers.check_credentials(found);
        assert!(check(credentials(user, Some(us))).is_err(), "nobody has entered");
        peers.enter(us);
        assert_eq!(check(credentials(user, Some(us))), Ok(()));
        let refusal = check(credentials(user, Some(parent))).unwrap_err();
        assert!(refusal.contains("was not started by"), "{refusal}");
        let refusal = check(credentials(user + 1, Some(us))).unwrap_err();
        assert!(refusal.contains("only user"), "{refusal}");
        assert!(check(credentials(user, None)).is_err() && check(None).is_err());
        peers.leave(us);
        assert!(check(credentials(user, Some(us))).is_err());
    }

    #[test]
    fn any_process_of_the_user_may_be_enough_but_no_other_users() {
        let user = rustix::process::geteuid().as_raw();
        let peers = Peers::new("car", true, Changes::default());
        assert_eq!(peers.check_credentials(credentials(user, None)), Ok(()));
        assert!(peers.check_credentials(credentials(user + 1, None)).is_err());
    }

    #[test]
    fn while_one_is_to_be_attached_the_first_may_connect_and_then_only_that_one() {
        let user = rustix::process::geteuid().as_raw();
        let (us, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let peers = Peers::new("car", false, Changes::default());
        let may = |pid| peers.check_credentials(credentials(user, Some(pid))).is_ok();
        peers.set_attaching(Attaching::Waiting);
        assert!(may(us) && may(parent));
        peers.set_attaching(Attaching::To(us));
        assert!(may(us) && !may(parent));
        peers.set_attaching(Attaching::No);
        assert!(!may(us));
    }
}
