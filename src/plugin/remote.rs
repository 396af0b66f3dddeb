//! Owns what a worker is asked, and the way to it.

use std::sync::Arc;
use std::time::SystemTime;

use mangrove_protocol::control::Symbol;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::{PluginName, SymbolName};
use tokio::sync::{mpsc, oneshot, watch};

use super::calls::Line;
use super::channel::Ends;
use super::error::OpenError;
use super::instances::{Instances, Seat};
use super::launch::Launch;
use super::lifecycle::{Refusal, UseId};
use super::native::Native;
use super::output::Output;
use super::peers::Peers;
use super::record::{Records, milliseconds};
use super::status::{Instance, Snapshot, Status};
use super::users::Users;
use crate::config::Portable;

/// What a plugin is to run.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) manifest: Arc<Manifest>,
    pub(super) launch: Launch,
}

/// Resolves when a use is over although nobody closed it.
pub(super) type EndOfUse = oneshot::Receiver<Refusal>;

/// What a worker is asked.
pub(super) enum Request {
    /// Run this from now on. When something runs, this is started beside it and takes over. Answered when it
    /// runs and has taken over; or with the reason why not: then what ran before runs on.
    Start(Box<Assignment>, oneshot::Sender<Result<(), String>>),
    /// Run nothing, for this reason. Answered when no process is left. `retire`: end when nobody uses it any
    /// more.
    Stop {
        reason: String,
        retire: bool,
        reply: oneshot::Sender<()>,
    },
    /// Stop, then wait for a process that the author starts. Answered when no process of ours is left.
    Attach(Arc<Manifest>, oneshot::Sender<()>),
    /// Run a source or a sink.
    Open(
        UseId,
        Box<Symbol>,
        Ends,
        oneshot::Sender<Result<EndOfUse, Refusal>>,
    ),
    /// Stop what was opened. Answered when it has stopped.
    Close(UseId, oneshot::Sender<()>),
    /// It is one too many: end as soon as it runs no source and no sink any more.
    Spare,
    /// Run a function, if it does not run yet.
    Function(SymbolName, oneshot::Sender<Result<Line, OpenError>>),
}

/// The way to a worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) plugin: PluginName,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<Snapshot>,
    pub(super) users: Arc<Users>,
    pub(super) records: Arc<Records>,
    pub(super) output: Arc<Output>,
    pub(super) peers: Arc<Peers>,
    pub(super) settings: Arc<Portable>,
    pub(super) native: Arc<Native>,
    /// What a process that somebody else starts has to find in its environment. Has the token.
    pub(super) attachment: watch::Receiver<Vec<(String, String)>>,
    /// It and the others.
    pub(super) instances: Arc<Instances>,
    /// Of the source or sink that was given it.
    pub(super) seat: Option<Arc<Seat>>,
}

impl Remote {
    /// Makes a request and waits for its answer; `None` when the worker has ended.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    /// How the plugin is; `manifest` names its symbols.
    pub(super) fn describe(&self, manifest: &Manifest) -> Status {
        let (snapshot, each) = self.instances.describe();
        let up = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
        let others = self.instances.others();
        let others = others.values().map(|other| other.peers.refused());
        let instances = each.into_iter().map(|(instance, one)| Instance {
            instance,
            status: one.state,
            err_msg: one.reason,
            pid: one.pid,
            restarts: one.restarts,
            version: one.version,
            uptime_seconds: one.started.map(up),
        });
        Status {
            ref_count: self.users.rules(),
            status: snapshot.state,
            err_msg: snapshot.reason,
            pid: snapshot.pid,
            restarts: snapshot.restarts,
            version: snapshot.version,
            started: snapshot.started.map(milliseconds),
            uptime_seconds: snapshot.started.map(up),
            note: snapshot.note,
            symbols: self.records.symbols(manifest),
            refused_peers: self.peers.refused() + others.sum::<u64>(),
            instances: instances.collect(),
            attached: snapshot.attached,
        }
    }
}
