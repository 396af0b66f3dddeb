//! Owns what the rest of the host is shown of a plugin.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mangrove_protocol::manifest::Manifest;

/// One word each, the same in REST, CLI and page; serialised in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its package is being unpacked and checked.
    Installing,
    /// Its folder is not whole yet.
    Incomplete,
    /// Its process runs and has not sent its handshake yet.
    Starting,
    /// Its process answers.
    Running,
    /// Its process runs and does not answer.
    Unhealthy,
    /// Its process failed and will be started again.
    Restarting,
    /// Its process failed too often; the host gave up.
    Failed,
    /// Nobody wants it to run.
    Stopped,
    /// It is not allowed to run.
    Refused,
    /// It is gone. Only ever seen in an [`Event`](super::Event).
    Removed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Installing => "installing",
            Self::Incomplete => "incomplete",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
            Self::Removed => "removed",
        })
    }
}

/// Everything that `GET /plugins/portables/{name}/status` shows.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The rules that use it and how many of its symbols each.
    pub ref_count: BTreeMap<String, u32>,
    /// Its state.
    pub status: State,
    /// Why it is in this state; empty when all is well.
    pub err_msg: String,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// How often its process was started again after a failure, since the host started.
    pub restarts: u32,
    /// The version that runs, or would; empty when none was ever accepted.
    pub version: String,
    /// When its process was started, in milliseconds since the epoch.
    pub started: Option<u64>,
    /// For how many seconds its process has been running.
    pub uptime_seconds: Option<u64>,
    /// Why an update was not taken, or what is incomplete; empty when all is well.
    pub note: String,
    /// How each of its symbols does.
    pub symbols: Symbols,
    /// How many connections of processes that are not the plugin's were refused.
    pub refused_peers: u64,
    /// Its process is one that its author starts.
    pub attached: bool,
    /// Each of its instances, when it has several. Process, start and uptime above are those of number 0, the
    /// restarts are those of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

/// One of several instances of a plugin.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its number, from 0.
    pub instance: u32,
    /// Its state.
    pub status: State,
    /// Why it is in this state; empty when all is well.
    pub err_msg: String,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// How often its process was started again after a failure, since the host started.
    pub restarts: u32,
    /// The version that runs, or would.
    pub version: String,
    /// For how many seconds its process has been running.
    pub uptime_seconds: Option<u64>,
}

/// The symbols of a plugin, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Symbols {
    /// Its sources.
    pub sources: BTreeMap<String, SymbolStatus>,
    /// Its sinks.
    pub sinks: BTreeMap<String, SymbolStatus>,
    /// Its functions.
    pub functions: BTreeMap<String, SymbolStatus>,
}

/// How one symbol does, over all its uses and all its processes since the host started.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SymbolStatus {
    /// When it last worked (brought a tuple, took a message, answered a call), in milliseconds since the epoch.
    pub last_ok: Option<u64>,
    /// How often it did not.
    pub errors: u64,
    /// What was said the last time it did not; empty when there was none.
    pub last_error: String,
    /// What it tells of itself, by name; at most 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl Status {
    /// The status of a plugin of which nothing runs or ever ran.
    pub fn without_worker(status: State, reason: &str) -> Self {
        Self {
            ref_count: BTreeMap::new(),
            status,
            err_msg: reason.to_owned(),
            pid: None,
            restarts: 0,
            version: String::new(),
            started: None,
            uptime_seconds: None,
            note: String::new(),
            symbols: Symbols::default(),
            refused_peers: 0,
            attached: false,
            instances: Vec::new(),
        }
    }
}

/// A plugin: what it says of itself, and how it is.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// What it says of itself.
    pub manifest: Manifest,
    /// How it is.
    pub status: Status,
}

/// What a worker publishes of itself: a [`Status`] without the rules, which the channels count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) state: State,
    pub(super) reason: String,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u32,
    pub(super) started: Option<SystemTime>,
    pub(super) version: String,
    pub(super) note: String,
    pub(super) attached: bool,
    /// Its process runs and speaks eKuiper's contract.
    pub(super) foreign: bool,
}

impl Snapshot {
    /// What a worker is before it is told anything.
    pub(super) fn unstarted() -> Self {
        Self::new(State::Stopped, "not started")
    }

    pub(super) fn new(state: State, reason: &str) -> Self {
        Self {
            state,
            reason: reason.to_owned(),
            pid: None,
            restarts: 0,
            started: None,
            version: String::new(),
            note: String::new(),
            attached: false,
            foreign: false,
        }
    }
}

impl Snapshot {
    /// Whether nothing has changed that is an event.
    pub(super) fn is_same_state(&self, other: &Self) -> bool {
        let key = |snapshot: &Self| (snapshot.state, snapshot.pid);
        key(self) == key(other) && (&self.reason, &self.version) == (&other.reason, &other.version)
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}", self.state)
        } else {
            write!(f, "{} ({})", self.state, self.reason)
        }
    }
}
