//! Owns one plugin at run time: its process, its control channel and its function channels, in one task. What
//! happens becomes an event of the pure life cycle; what that decides is carried out here. It knows neither
//! the folder nor other plugins; the manager makes it and tells it what to run.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::{PluginName, SymbolName};
use rustix::process::Signal;
use sp_proto::{EndpointId, PipeId, Rep};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::error::{OpenError, with_sources};
use super::events::Events;
use super::function::{self, Channel};
use super::gate::Gate;
use super::launch::Launch;
use super::lifecycle::{Action, Event, Lifecycle, Limits, Refusal, UseId};
use super::output::Output;
use super::process::{Ending, Process, Spawner};
use super::status::{Snapshot, State};
use super::users::Users;
use crate::config::Portable;

/// Requests that may wait for the worker.
const QUEUE: usize = 64;

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
    /// Run this from now on. Answered at once.
    Start(Box<Assignment>, oneshot::Sender<()>),
    /// Run nothing, for this reason. Answered when no process is left. `retire`: end when nobody uses it any
    /// more.
    Stop {
        reason: String,
        retire: bool,
        reply: oneshot::Sender<()>,
    },
    /// Run a source or a sink.
    Open(UseId, Box<Symbol>, oneshot::Sender<Result<EndOfUse, Refusal>>),
    /// Stop what was opened. Answered when it has stopped.
    Close(UseId, oneshot::Sender<()>),
    /// Run a function, if it does not run yet.
    Function(SymbolName, oneshot::Sender<Result<function::Line, OpenError>>),
}

/// The way to a worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) plugin: PluginName,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<Snapshot>,
    pub(super) users: Arc<Users>,
    pub(super) output: Arc<Output>,
    pub(super) settings: Arc<Portable>,
}

impl Remote {
    /// Makes a request and waits for its answer; `None` when the worker has ended.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The function channels of the plugin, open or about to be.
struct FunctionUse {
    id: UseId,
    channel: Channel,
    open: bool,
    waiting: Vec<oneshot::Sender<Result<function::Line, OpenError>>>,
}

/// The task's state. Made by [`Worker::new`], driven by [`Worker::run`].
pub(super) struct Worker {
    plugin: PluginName,
    settings: Arc<Portable>,
    spawner: Spawner,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Snapshot>,
    users: Arc<Users>,
    output: Arc<Output>,
    events: Events,
    /// Of what it was told to run.
    version: Option<String>,
    lifecycle: Lifecycle<PipeId>,
    launch: Option<Launch>,
    process: Option<Process>,
    control: Rep,
    endpoint: Option<EndpointId>,
    gate: Gate,
    /// The newest control message, which the next command replies to.
    held: Option<sp_proto::Request>,
    opening: HashMap<UseId, oneshot::Sender<Result<EndOfUse, Refusal>>>,
    open: HashMap<UseId, oneshot::Sender<Refusal>>,
    closing: HashMap<UseId, oneshot::Sender<()>>,
    functions: BTreeMap<SymbolName, FunctionUse>,
    tasks: JoinSet<()>,
    silent: (mpsc::Sender<SymbolName>, mpsc::Receiver<SymbolName>),
    stopping: Vec<oneshot::Sender<()>>,
    retiring: bool,
}

/// What woke the task.
enum Wake {
    Shutdown,
    Request(Box<Request>),
    Left,
    Message(sp_proto::Request),
    Pipe(sp_proto::Event),
    Ended,
    Silent(SymbolName),
    Tick,
    Joined(Result<(), tokio::task::JoinError>),
}

impl Worker {
    /// A worker that runs nothing yet, and the way to it.
    pub(super) fn new(
        plugin: PluginName,
        settings: Arc<Portable>,
        spawner: Spawner,
        events: Events,
    ) -> (Self, Remote) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (status, snapshot) = watch::channel(Snapshot::new(State::Stopped, "not started"));
        let users = Arc::<Users>::default();
        let output = Arc::new(Output::new(plugin.as_str(), settings.log_lines));
        let backoff = Backoff::new(
            settings.restart_delay_min,
            settings.restart_delay_max,
            settings.restart_limit,
        );
        let worker = Self {
            plugin: plugin.clone(),
            settings: Arc::clone(&settings),
            spawner,
            requests,
            status,
            users: Arc::clone(&users),
            output: Arc::clone(&output),
            events,
            version: None,
            lifecycle: Lifecycle::new(backoff, fastrand::u64(..)),
            launch: None,
            process: None,
            control: Rep::with_options(super::socket_options(&settings)),
            endpoint: None,
            gate: Gate::default(),
            held: None,
            opening: HashMap::new(),
            open: HashMap::new(),
            closing: HashMap::new(),
            functions: BTreeMap::new(),
            tasks: JoinSet::new(),
            silent: mpsc::channel(1),
            stopping: Vec::new(),
            retiring: false,
        };
        (
            worker,
            Remote {
                plugin,
                requests: sender,
                status: snapshot,
                users,
                output,
                settings,
            },
        )
    }

    /// Runs until `shutdown`, or until it is retired and nobody uses it. No process is left then.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut pipes = self.control.events();
        let mut ending = false;
        loop {
            let deadline = self.lifecycle.deadline();
            let wake = tokio::select! {
                () = shutdown.cancelled(), if !ending => Wake::Shutdown,
                Some(request) = self.requests.recv() => Wake::Request(Box::new(request)),
                () = self.users.changed() => Wake::Left,
                Ok(message) = self.control.recv() => Wake::Message(message),
                Some(event) = pipes.recv() => Wake::Pipe(event),
                () = ended(self.process.as_ref()) => Wake::Ended,
                Some(symbol) = self.silent.1.recv() => Wake::Silent(symbol),
                () = sleep_until(deadline) => Wake::Tick,
                Some(result) = self.tasks.join_next() => Wake::Joined(result),
            };
            match wake {
                Wake::Shutdown => {
                    ending = true;
                    self.handle(Event::Stop("the host is stopping".to_owned())).await;
                }
                Wake::Request(request) => self.handle_request(*request).await,
                Wake::Left => {
                    for id in self.users.take_left() {
                        self.handle(Event::Close(id)).await;
                    }
                }
                Wake::Message(message) => self.handle_message(message).await,
                Wake::Pipe(sp_proto::Event::PipeRemoved { pipe, .. }) => self.handle(Event::Gone(pipe)).await,
                Wake::Pipe(sp_proto::Event::PeerRefused { peer_address, reason }) => {
                    let plugin = &self.plugin;
                    tracing::warn!(%plugin, "refused a control connection of {peer_address}: {reason}");
                }
                Wake::Ended => self.handle_ended().await,
                Wake::Silent(symbol) => {
                    // Without a process it is no wonder, and a new one gets everything again.
                    let is_running = self.lifecycle.status().0 == State::Running;
                    if let Some(function) = self.functions.get(&symbol).filter(|_| is_running) {
                        let (plugin, id) = (&self.plugin, function.id);
                        tracing::warn!(%plugin, function = %symbol, "it has no connection: starting it again");
                        self.handle(Event::Silent(id)).await;
                    }
                }
                Wake::Tick => self.handle(Event::Tick).await,
                Wake::Joined(Err(error)) => {
                    tracing::error!(plugin = %self.plugin, "the task of a function died: {error}");
                }
                Wake::Joined(Ok(())) | Wake::Pipe(_) => {}
            }
            if self.process.is_none() {
                self.stopping.drain(..).for_each(|reply| answer(reply, ()));
                if ending || self.is_retired().await {
                    break;
                }
            }
        }
        for function in self.functions.values() {
            function.channel.stop();
        }
        while self.tasks.join_next().await.is_some() {}
        self.control.close().await;
    }

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Start(assignment, reply) => {
                let Assignment { manifest, launch } = *assignment;
                self.retiring = false;
                self.version = Some(manifest.version.clone());
                self.launch = Some(launch);
                let limits = Limits {
                    start: manifest
                        .start_timeout
                        .map_or(self.settings.start_timeout, Duration::from_millis),
                    command: self.settings.command_timeout,
                    grace: self.settings.stop_grace,
                };
                self.handle(Event::Start(manifest, limits)).await;
                answer(reply, ());
            }
            Request::Stop {
                reason,
                retire,
                reply,
            } => {
                self.retiring = retire;
                self.stopping.push(reply);
                self.handle(Event::Stop(reason)).await;
            }
            Request::Open(id, symbol, reply) => {
                self.opening.insert(id, reply);
                self.handle(Event::Open(id, *symbol)).await;
            }
            Request::Close(id, reply) => {
                self.closing.insert(id, reply);
                self.handle(Event::Close(id)).await;
            }
            Request::Function(symbol, reply) => self.open_function(symbol, reply).await,
        }
    }

    async fn open_function(
        &mut self,
        symbol: SymbolName,
        reply: oneshot::Sender<Result<function::Line, OpenError>>,
    ) {
        if let Some(function) = self.functions.get_mut(&symbol) {
            if function.open {
                answer(reply, Ok(function.channel.line()));
            } else {
                function.waiting.push(reply);
            }
            return;
        }
        let silent = self.silent.0.clone();
        let (task, channel) =
            match function::Task::listen(&self.plugin, &symbol, &self.settings, silent).await {
                Ok(listening) => listening,
                Err(error) => {
                    answer(reply, Err(error));
                    return;
                }
            };
        self.tasks.spawn(task.run());
        let id = self.users.next_id();
        let function = FunctionUse {
            id,
            channel,
            open: false,
            waiting: vec![reply],
        };
        self.functions.insert(symbol.clone(), function);
        let symbol = Symbol {
            name: symbol,
            meta: Meta::default(),
            use_as: UseAs::Function,
            config: Default::default(),
        };
        self.handle(Event::Open(id, symbol)).await;
    }

    async fn handle_message(&mut self, message: sp_proto::Request) {
        let pipe = message.pipe();
        if self.gate.admits(&self.control, pipe, self.plugin.as_str()) {
            let request = mangrove_protocol::control::Request::decode(message.body());
            tracing::trace!(plugin = %self.plugin, ?pipe, ?request, "control message");
            let id = message.id();
            // An older connection's message must not displace the newest one's. (One that the life cycle
            // ignores because it is a repetition may stay here: it is displaced before anything can be sent.)
            if self.held.as_ref().is_none_or(|held| held.pipe() <= pipe) {
                self.held = Some(message);
            }
            self.handle(Event::Message(pipe, id, request)).await;
        }
    }

    async fn handle_ended(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        let started = process.started();
        let mut how = Ending(&process.reap().await).to_string();
        if let Some(last) = self.output.last_error(started) {
            how = format!("{how}; it said last: {last}");
        }
        self.held = None;
        self.handle(Event::Exited(how)).await;
    }

    /// Hands `event` to the life cycle and does what it decides, until nothing follows any more.
    async fn handle(&mut self, event: Event<PipeId>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.lifecycle.handle(event, Instant::now()) {
                events.extend(self.carry_out(action).await);
            }
        }
        self.publish();
    }

    /// Returns what follows at once.
    async fn carry_out(&mut self, action: Action) -> Option<Event<PipeId>> {
        match action {
            Action::Spawn => return self.spawn().await.err().map(Event::SpawnFailed),
            Action::Terminate => self.signal(Signal::TERM),
            Action::Kill => {
                let grace = self.settings.stop_grace;
                tracing::warn!(plugin = %self.plugin, "it has not ended within {grace:?}: killing it");
                self.signal(Signal::KILL);
            }
            Action::Send(command) => {
                let message = self.held.take()?;
                let pipe = message.pipe();
                tracing::trace!(plugin = %self.plugin, ?pipe, ?command, "control command");
                if let Err(error) = message.reply(command.encode()).await {
                    tracing::debug!(plugin = %self.plugin, "a command could not be sent: {error}");
                    return Some(Event::Gone(pipe));
                }
            }
            Action::Opened(id) => {
                if let Some(reply) = self.opening.remove(&id) {
                    let (end, end_of_use) = oneshot::channel();
                    self.open.insert(id, end);
                    answer(reply, Ok(end_of_use));
                } else if let Some(function) = self.functions.values_mut().find(|function| function.id == id)
                {
                    function.open = true;
                    let line = function.channel.line();
                    function
                        .waiting
                        .drain(..)
                        .for_each(|reply| answer(reply, Ok(line.clone())));
                }
            }
            Action::Refused(id, refusal) | Action::Ended(id, refusal) => self.end_use(id, &refusal),
            Action::Closed(id) => {
                self.open.remove(&id);
                if let Some(reply) = self.closing.remove(&id) {
                    answer(reply, ());
                }
            }
        }
        None
    }

    async fn spawn(&mut self) -> Result<(), String> {
        // The host listens first: some SDKs dial only once.
        if self.endpoint.is_none() {
            let address = address::control(&self.plugin).map_err(|error| error.to_string())?;
            let endpoint = self.control.listen(&address).await;
            let endpoint = endpoint.map_err(|error| with_sources(&error))?;
            self.endpoint = Some(endpoint.id);
        }
        let launch = self.launch.as_ref().ok_or("there is nothing to run")?;
        let process = self.spawner.spawn(launch, &self.output).await;
        let process =
            process.map_err(|error| format!("cannot start {}: {error}", launch.program.to_string_lossy()))?;
        tracing::info!(plugin = %self.plugin, pid = process.id(), "process started");
        self.process = Some(process);
        Ok(())
    }

    fn end_use(&mut self, id: UseId, refusal: &Refusal) {
        if let Some(reply) = self.opening.remove(&id) {
            answer(reply, Err(refusal.clone()));
        }
        if let Some(end) = self.open.remove(&id) {
            tracing::warn!(plugin = %self.plugin, "a symbol was not started again: {refusal}");
            answer(end, refusal.clone());
        }
        if let Some(reply) = self.closing.remove(&id) {
            answer(reply, ());
        }
        let name = self
            .functions
            .iter()
            .find(|(_, function)| function.id == id)
            .map(|(name, _)| name.clone());
        if let Some((name, function)) = name.and_then(|name| self.functions.remove_entry(&name)) {
            tracing::warn!(plugin = %self.plugin, "the function \"{name}\" does not run: {refusal}");
            function.channel.stop();
            for reply in function.waiting {
                answer(
                    reply,
                    Err(refusal.clone().into_open_error(&self.plugin, name.as_str())),
                );
            }
        }
    }

    /// Whether the task can end: it was told to, and nobody waits for the plugin's return.
    async fn is_retired(&mut self) -> bool {
        if !self.retiring || !self.lifecycle.is_down() {
            return false;
        }
        if let Some(endpoint) = self.endpoint.take() {
            self.control.close_endpoint(endpoint).await;
        }
        let idle = self
            .functions
            .values()
            .all(|function| !function.channel.is_used());
        idle && self.lifecycle.uses() == self.functions.len()
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn publish(&self) {
        let (state, reason) = self.lifecycle.status();
        let snapshot = Snapshot {
            state,
            reason,
            pid: self.process.as_ref().map(Process::id),
            restarts: self.lifecycle.restarts(),
            started: self.process.as_ref().map(Process::started),
        };
        self.status.send_if_modified(|current| {
            let changed = *current != snapshot;
            if changed {
                match snapshot.state {
                    State::Restarting | State::Failed | State::Unhealthy => {
                        tracing::warn!(plugin = %self.plugin, "{snapshot}");
                    }
                    _ => tracing::info!(plugin = %self.plugin, "{snapshot}"),
                }
                self.events
                    .announce(&self.plugin, self.version.as_deref(), &snapshot);
                *current = snapshot;
            }
            changed
        });
    }
}

/// Waits for the end of the process, if there is one. A pidfd that cannot be watched counts as an end: the
/// process is killed and reaped then.
async fn ended(process: Option<&Process>) {
    match process {
        Some(process) => {
            if let Err(error) = process.ended().await {
                tracing::error!(pid = process.id(), "a process cannot be watched: {error}");
            }
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Whoever asked may have gone; then nobody needs the answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
