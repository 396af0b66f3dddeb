//! Owns what a worker is asked, and the way to it.

use std::sync::Arc;
use std::time::SystemTime;

use mangrove_protocol::control::Symbol;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::{PluginName, SymbolName};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Portable;
use crate::plugin::channel::Ends;
use crate::plugin::error::OpenError;
use crate::plugin::function;
use crate::plugin::launch::Launch;
use crate::plugin::lifecycle::{Refusal, UseId};
use crate::plugin::native::Native;
use crate::plugin::output::Output;
use crate::plugin::peers::Peers;
use crate::plugin::record::{Records, milliseconds};
use crate::plugin::status::{Snapshot, Status};
use crate::plugin::users::Users;

/// What a plugin is to run.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct Assignment {
    pub(in crate::plugin) manifest: Arc<Manifest>,
    pub(in crate::plugin) launch: Launch,
}

/// Resolves when a use is over although nobody closed it.
pub(in crate::plugin) type EndOfUse = oneshot::Receiver<Refusal>;

/// What a worker is asked.
pub(in crate::plugin) enum Request {
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
    /// Stop, then start the same again, with no failures counted. Answered as `Start`.
    #[cfg_attr(not(test), expect(dead_code, reason = "nothing in the host asks for it yet"))]
    Restart(oneshot::Sender<Result<(), String>>),
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
    /// Run a function, if it does not run yet.
    Function(SymbolName, oneshot::Sender<Result<function::Line, OpenError>>),
}

/// The way to a worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct Remote {
    pub(in crate::plugin) plugin: PluginName,
    pub(in crate::plugin) requests: mpsc::Sender<Request>,
    pub(in crate::plugin) status: watch::Receiver<Snapshot>,
    pub(in crate::plugin) users: Arc<Users>,
    pub(in crate::plugin) records: Arc<Records>,
    pub(in crate::plugin) output: Arc<Output>,
    pub(in crate::plugin) peers: Arc<Peers>,
    pub(in crate::plugin) settings: Arc<Portable>,
    pub(in crate::plugin) native: Arc<Native>,
    /// What a process that somebody else starts has to find in its environment. Has the token.
    pub(in crate::plugin) attachment: watch::Receiver<Vec<(String, String)>>,
}

impl Remote {
    /// Makes a request and waits for its answer; `None` when the worker has ended.
    pub(in crate::plugin) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    /// How the plugin is; `manifest` names its symbols.
    pub(in crate::plugin) fn describe(&self, manifest: &Manifest) -> Status {
        let snapshot = self.status.borrow().clone();
        let up = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
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
            refused_peers: self.peers.refused(),
            attached: snapshot.attached,
        }
    }
}
