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
    /// Why it is not what lies in its folder, or what else there is to say; empty when all is well.
    pub note: String,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// How often its process was started again after a failure, since the host started.
    pub restarts: u32,
    /// When its process was started.
    #[serde(skip)]
    pub started: Option<SystemTime>,
}

impl Status {
    /// The status of a plugin of which nothing runs or ever ran.
    pub fn without_worker(status: State, reason: &str) -> Self {
        Self {
            ref_count: BTreeMap::new(),
            status,
            err_msg: reason.to_owned(),
            note: String::new(),
            pid: None,
            restarts: 0,
            started: None,
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
}

impl Snapshot {
    pub(super) fn new(state: State, reason: &str) -> Self {
        Self {
            state,
            reason: reason.to_owned(),
            pid: None,
            restarts: 0,
            started: None,
        }
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
