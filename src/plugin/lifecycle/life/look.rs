//! How one line of processes is, for whoever wants to know.

use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::manifest::Manifest;

use super::{Lifecycle, Phase, Then};
use crate::plugin::status::State;

impl<P: Copy + Ord> Lifecycle<P> {
    /// One word and one reason; the reason is empty when all is well.
    pub(in crate::plugin::lifecycle) fn status(&self) -> (State, String) {
        match &self.phase {
            Phase::Stopped(reason) => (State::Stopped, reason.clone()),
            Phase::Starting { .. }
            | Phase::Stopping {
                then: Then::Start, ..
            } => (State::Starting, String::new()),
            Phase::Running {
                disconnected: Some(_),
                ..
            } => (State::Unhealthy, "its control connection is gone".to_owned()),
            Phase::Running { .. } => match self.health.complaint() {
                Some(complaint) => (State::Unhealthy, complaint),
                None => (State::Running, String::new()),
            },
            Phase::Awaiting
            | Phase::Stopping {
                then: Then::Attach, ..
            } => (State::Starting, "waiting for a process that you start".to_owned()),
            Phase::Waiting { reason, .. }
            | Phase::Stopping {
                then: Then::Fail { reason, .. },
                ..
            } => (State::Restarting, reason.clone()),
            Phase::Stopping {
                then: Then::Stop(reason),
                ..
            } => (State::Stopped, format!("{reason}; ending")),
            Phase::Failed(reason) => (State::Failed, reason.clone()),
        }
    }

    /// How often a failed process was started again.
    pub(in crate::plugin::lifecycle) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Neither a process nor the wish for one.
    pub(in crate::plugin::lifecycle) fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Stopped(_) | Phase::Failed(_))
    }

    /// Its process answers, or did so once.
    pub(in crate::plugin::lifecycle) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Its process has not failed and is not meant to end; or the next one is about to be started.
    pub(in crate::plugin::lifecycle) fn is_well(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::Stopping {
                    then: Then::Start,
                    ..
                }
        )
    }

    /// Its process was told to end, and has not yet.
    pub(in crate::plugin::lifecycle) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    /// Its process runs, or is on its way.
    pub(in crate::plugin::lifecycle) fn has_process(&self) -> bool {
        let running = matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Stopping { .. }
        );
        running && !self.attached
    }

    /// The process is, or will be, one that somebody else starts.
    pub(in crate::plugin::lifecycle) fn is_attached(&self) -> bool {
        self.attached
    }

    /// It has answered everything, and nothing is to be sent.
    pub(in crate::plugin::lifecycle) fn is_settled(&self) -> bool {
        self.outstanding.is_none() && self.uses.is_settled()
    }

    /// Somebody is at the other end of its control channel.
    pub(in crate::plugin::lifecycle) fn is_connected(&self) -> bool {
        self.turn.current().is_some()
    }

    /// A command was given up, and nothing was heard since.
    pub(in crate::plugin::lifecycle) fn is_unresponsive(&self) -> bool {
        self.health.unanswered().is_some()
    }

    /// What it runs.
    pub(in crate::plugin::lifecycle) fn manifest(&self) -> Option<&Arc<Manifest>> {
        self.manifest.as_ref()
    }

    /// From a command to its answer.
    pub(in crate::plugin::lifecycle) fn command_limit(&self) -> Duration {
        self.limits.command
    }

    /// Why its last process failed, or is being ended.
    pub(in crate::plugin::lifecycle) fn last_failure(&self) -> &str {
        match &self.phase {
            Phase::Stopping {
                then: Then::Fail { reason, .. },
                ..
            } => reason,
            _ => &self.last_failure,
        }
    }
}
