//! Owns what the channels of sources and sinks have in common: one use of a symbol in a plugin's worker, and
//! what the worker's news mean to whoever uses it.

use std::sync::Arc;

use mangrove_protocol::control::{Meta, Symbol};
use mangrove_protocol::name::{self, OpId, PluginName, RuleId};
use sp_proto::Event;
use tokio::sync::oneshot::error::TryRecvError;

use super::doorstep::Doorstep;
use super::error::{ChannelError, OpenError};
use super::lifecycle::{self, UseId};
use super::native::feed::Inlet;
use super::record::Record;
use super::remote::{EndOfUse, Remote, Request};
use super::sender::Sender;
use super::status::{Snapshot, State};
use super::users::User;

/// Where the worker puts what belongs to a use, in the process that runs it.
#[derive(Clone, Debug)]
pub(super) enum Ends {
    Source(Arc<Inlet>, Arc<Doorstep>),
    Sink(Arc<Sender>),
    /// Its channel is the worker's own. Instances beside number 0 have no place for a process of eKuiper's contract.
    Function(Option<Arc<Doorstep>>),
}

/// A symbol that runs for somebody, and is started again in every new process. Dropped: the worker stops it.
#[derive(Debug)]
pub(super) struct Use {
    id: UseId,
    remote: Remote,
    record: Arc<Record>,
    /// Until it has resolved.
    end: Option<EndOfUse>,
    /// What it said; nothing when the host is stopping.
    why: Option<String>,
    said: bool,
    _user: User,
}

impl Use {
    /// Waits until the plugin runs the symbol.
    pub(super) async fn open(remote: Remote, symbol: Symbol, ends: Ends) -> Result<Self, OpenError> {
        let id = remote.users.next_id();
        let rule = symbol.meta.rule_id.as_ref().map_or("", RuleId::as_str);
        // First: when this future is dropped half-way, the worker hears of it.
        let user = remote.users.enter(rule, Some(id));
        let name = symbol.name.clone();
        let record = remote.records.of(lifecycle::kind(&symbol), &name);
        let opened = remote
            .ask(|reply| Request::Open(id, Box::new(symbol), ends, reply))
            .await;
        let end = opened.ok_or(OpenError::Stopping)?.map_err(|refusal| {
            record.note_error(&refusal.to_string());
            refusal.into_open_error(&remote.plugin, name.as_str())
        })?;
        Ok(Self {
            id,
            remote,
            record,
            end: Some(end),
            why: None,
            said: false,
            _user: user,
        })
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What is remembered of the symbol.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Waits until the use is over although nobody closed it. `None` when this was said before.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn ended(&mut self) -> Option<ChannelError> {
        self.over().await;
        let is_news = !std::mem::replace(&mut self.said, true);
        self.has_ended().filter(|_| is_news)
    }

    /// Waits until [`Use::has_ended`] says something.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn over(&mut self) {
        if let Some(end) = self.end.as_mut() {
            let end = end.await;
            self.note_end(end.ok());
        }
    }

    /// As [`Use::ended`], without waiting, and as often as one likes.
    pub(super) fn has_ended(&mut self) -> Option<ChannelError> {
        match self.end.as_mut().map(EndOfUse::try_recv) {
            Some(Err(TryRecvError::Empty)) => return None,
            Some(Err(TryRecvError::Closed)) => self.note_end(None),
            Some(Ok(refusal)) => self.note_end(Some(refusal)),
            None => {}
        }
        Some(match &self.why {
            Some(reason) => ChannelError::Ended {
                plugin: self.remote.plugin.clone(),
                reason: reason.clone(),
            },
            None => ChannelError::Stopping,
        })
    }

    fn note_end(&mut self, end: Option<lifecycle::Refusal>) {
        self.end = None;
        self.why = end.map(|refusal| refusal.to_string());
    }

    /// The plugin and how it is, for an error.
    pub(super) fn describe(&self) -> (PluginName, String) {
        (
            self.remote.plugin.clone(),
            self.remote.status.borrow().to_string(),
        )
    }

    /// Has the symbol stopped. What this returns resolves when it has.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        let (id, remote) = (self.id, self.remote.clone());
        async move {
            let _ = remote.ask(|reply| Request::Close(id, reply)).await;
        }
    }

    /// Waits until the symbol has stopped.
    pub(super) async fn close(self) {
        let _ = self.remote.ask(|reply| Request::Close(self.id, reply)).await;
    }
}

/// The ids that the addresses are made of.
pub(super) fn ids(meta: &Meta) -> Result<(&RuleId, &OpId), OpenError> {
    let missing = |field| OpenError::Id {
        field,
        source: name::NameError::Empty,
    };
    let rule = meta.rule_id.as_ref().ok_or(missing("rule id"))?;
    let op = meta.op_id.as_ref().ok_or(missing("operator id"))?;
    Ok((rule, op))
}

/// What a new status of the plugin means to one of its channels.
pub(super) fn down(plugin: &PluginName, status: &Snapshot) -> Option<ChannelError> {
    match status.state {
        State::Restarting | State::Failed | State::Stopped => Some(ChannelError::Down {
            plugin: plugin.clone(),
            state: status.state,
            reason: status.reason.clone(),
        }),
        _ => None,
    }
}

/// What an event of the socket means to one of the channels.
pub(super) fn broken(plugin: &PluginName, event: Event) -> Option<ChannelError> {
    match event {
        Event::PipeRemoved { reason, .. } | Event::PeerRefused { reason, .. } => Some(ChannelError::Closed {
            plugin: plugin.clone(),
            reason,
        }),
        Event::Missed(_) => Some(ChannelError::Closed {
            plugin: plugin.clone(),
            reason: "it is not known why".to_owned(),
        }),
        _ => None,
    }
}
