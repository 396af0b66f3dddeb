//! Owns the stream of everything that happens to plugins. The workers and the manager announce, anybody may
//! listen; nobody waits for a listener.

use std::time::SystemTime;

use mangrove_protocol::name::PluginName;
use tokio::sync::{broadcast, watch};

use super::status::{Snapshot, State};

/// Events that wait for a slow listener; then it loses the oldest, and is told how many.
const CAPACITY: usize = 256;

/// A plugin's state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// The plugin, or the folder's name when that cannot be a plugin's.
    pub plugin: String,
    /// Its version, when its manifest can be read.
    pub version: Option<String>,
    /// What it is from now on.
    pub state: State,
    /// Why; empty when all is well.
    pub reason: String,
    /// Its process, if one runs.
    pub pid: Option<u32>,
}

/// Counts up whenever something may have changed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(watch::Sender<u64>);

impl Changes {
    /// It has changed.
    pub(super) fn note(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Hears of every later change.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Where events are announced. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Event>,
    /// Of what a status shows.
    pub(super) changes: Changes,
    /// Of which symbols can be used.
    pub(super) usable: Changes,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            changes: Changes::default(),
            usable: Changes::default(),
        }
    }
}

impl Events {
    /// Listens from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Announces what a worker has published of itself.
    pub(super) fn announce(&self, plugin: &PluginName, snapshot: &Snapshot) {
        let version = Some(snapshot.version.as_str()).filter(|version| !version.is_empty());
        let (state, reason) = (snapshot.state, &snapshot.reason);
        self.send(plugin.as_str(), version, state, reason, snapshot.pid);
    }

    /// Announces something that has no worker.
    pub(super) fn say(&self, plugin: &str, version: Option<&str>, state: State, reason: &str) {
        self.send(plugin, version, state, reason, None);
    }

    fn send(&self, plugin: &str, version: Option<&str>, state: State, reason: &str, pid: Option<u32>) {
        // An error only says that nobody listens.
        let _ = self.sender.send(Event {
            at: SystemTime::now(),
            plugin: plugin.to_owned(),
            version: version.map(str::to_owned),
            state,
            reason: reason.to_owned(),
            pid,
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn a_slow_listener_is_told_what_it_has_lost() {
        let events = Events::default();
        let mut listener = events.subscribe();
        for _ in 0..=CAPACITY {
            events.say("car", Some("1"), State::Refused, "why");
        }
        assert_eq!(listener.try_recv(), Err(TryRecvError::Lagged(1)));
        let event = listener.try_recv().unwrap();
        assert_eq!(
            (event.plugin.as_str(), event.version.as_deref(), event.state),
            ("car", Some("1"), State::Refused)
        );
    }
}
