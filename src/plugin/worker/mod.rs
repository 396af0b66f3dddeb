//! Owns one plugin at run time: its processes, its control channel and its function channels, in one task. What
//! happens becomes a happening of the pure life cycle; what that decides is carried out here. It knows neither
//! the folder nor other plugins; the manager makes it and tells it what to run.
//!
//! | module | what it owns |
//! |---|---|
//! | `processes` | the processes, and whose control connection is whose |
//! | `deeds` | carrying out what was decided |
//! | `native` | what processes of our own contract say, and are told |
//! | `symbols` | whoever waits for a symbol; the channels that move with it |

mod deeds;
mod native;
mod processes;
mod symbols;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mangrove_protocol::control;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::{PluginName, SymbolName};
use sp_proto::{EndpointId, PipeId, Rep};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::events::Events;
use super::instances::Instances;
use super::launch::Launch;
use super::lifecycle::{Event, Generation, Generations, Happening, Limits, Ticket, UseId};
use super::missed;
use super::native::session::News;
use super::native::{Elsewhere, Native};
use super::output::Output;
use super::peers::{Attaching, Peers};
use super::process::Spawner;
use super::record::Records;
use super::remote::{Assignment, Remote, Request};
use super::status::{Snapshot, State};
use super::users::Users;
use crate::config::Portable;
use processes::{Owner, Processes};
use symbols::{Hold, Symbols};

/// Requests that may wait for the worker.
const QUEUE: usize = 64;

/// How often it looks whether a process is stopped in its tracks.
const LOOK: Duration = Duration::from_secs(1);

/// The task's state. Made by [`Worker::new`], driven by [`Worker::run`].
pub(super) struct Worker {
    plugin: PluginName,
    /// Which of the plugin's instances it is; number 0 stands for all of them where there can be one alone.
    instance: u32,
    instances: Arc<Instances>,
    /// The functions that every instance is to run.
    functions: watch::Receiver<BTreeSet<SymbolName>>,
    settings: Arc<Portable>,
    spawner: Spawner,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Snapshot>,
    users: Arc<Users>,
    records: Arc<Records>,
    output: Arc<Output>,
    events: Events,
    peers: Arc<Peers>,
    generations: Generations<PipeId>,
    /// What the wishes to start stand for.
    launches: BTreeMap<Ticket, Launch>,
    tickets: u64,
    starting: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
    /// What has become of starts, told as soon as the status shows it.
    settled: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    processes: Processes,
    control: Rep,
    endpoint: Option<(EndpointId, Option<Elsewhere>)>,
    symbols: Symbols,
    native: Arc<Native>,
    /// What processes of our own contract have to say. The sender is for new sessions.
    news: Queue<(Generation, News)>,
    /// Stands for the ids of requests, which our own contract does not need.
    heard: u32,
    /// The tasks of the functions and of the sessions.
    tasks: JoinSet<()>,
    /// What sinks' senders are being made to do.
    moves: JoinSet<Moved>,
    silent: Queue<SymbolName>,
    stopping: Vec<oneshot::Sender<()>>,
    retiring: bool,
    /// There are enough instances without it.
    spare: bool,
    /// What a process that somebody else starts is to be.
    attached: Option<Arc<Manifest>>,
    /// What it has to find in its environment.
    attachment: watch::Sender<Vec<(String, String)>>,
}

/// Both ends of what other tasks tell this one.
type Queue<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// What has become of a start.
type Outcome = Result<(), String>;

/// What has come of a sink's sender.
enum Moved {
    Held(UseId, Option<Hold>),
    /// Connected for the sake of a swap, which says when it may go on.
    Dialed(UseId, Result<(), String>),
    /// Connected anew, because its process has started it again.
    Connected(UseId, Result<(), String>),
}

/// What woke the task.
enum Wake {
    Shutdown,
    Request(Box<Request>),
    Left,
    Message(sp_proto::Request),
    Pipe(sp_proto::Event),
    Ended(Generation),
    News(Generation, News),
    Silent(SymbolName),
    Functions,
    Wanted,
    Moved(Result<Moved, tokio::task::JoinError>),
    Look,
    Tick,
    Joined(Result<(), tokio::task::JoinError>),
}

impl Worker {
    /// A worker that runs nothing yet, and the way to it. It is this one of the plugin's `instances`.
    pub(super) fn new(
        plugin: PluginName,
        settings: Arc<Portable>,
        spawner: Spawner,
        native: Arc<Native>,
        events: Events,
        instance: u32,
        instances: Arc<Instances>,
    ) -> (Self, Remote) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (status, snapshot) = watch::channel(Snapshot::unstarted());
        instances.begin(instance);
        let users = Arc::new(Users::of(Arc::clone(&instances.rules)));
        let records = Arc::clone(&instances.records);
        let output = match instance {
            0 => Arc::clone(&instances.output),
            _ => Arc::new(instances.output.beside()),
        };
        let changes = events.changes.clone();
        let peers = Arc::new(Peers::new(plugin.as_str(), settings.admits_any_peer(), changes));
        let backoff = Backoff::new(
            settings.restart_delay_min,
            settings.restart_delay_max,
            settings.restart_limit,
        );
        let worker = Self {
            plugin: plugin.clone(),
            instance,
            instances: Arc::clone(&instances),
            functions: instances.functions(),
            settings: Arc::clone(&settings),
            spawner,
            requests,
            status,
            users: Arc::clone(&users),
            records: Arc::clone(&records),
            output: Arc::clone(&output),
            events,
            peers: Arc::clone(&peers),
            generations: Generations::new(backoff, fastrand::u64(..)),
            launches: BTreeMap::new(),
            tickets: 0,
            starting: BTreeMap::new(),
            settled: Vec::new(),
            processes: Processes::default(),
            control: Rep::with_options(super::socket_options(&settings, &peers)),
            endpoint: None,
            symbols: Symbols::default(),
            native: Arc::clone(&native),
            news: mpsc::channel(QUEUE),
            heard: 0,
            tasks: JoinSet::new(),
            moves: JoinSet::new(),
            silent: mpsc::channel(1),
            stopping: Vec::new(),
            retiring: false,
            spare: false,
            attached: None,
            attachment: watch::Sender::default(),
        };
        let attachment = worker.attachment.subscribe();
        (
            worker,
            Remote {
                plugin,
                requests: sender,
                status: snapshot,
                users,
                records,
                output,
                peers,
                settings,
                native,
                attachment,
                instances,
                seat: None,
            },
        )
    }

    /// Runs until `shutdown`, or until it is retired and nobody uses it. No process is left then.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut pipes = self.control.events();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ending = false;
        loop {
            let deadline = [self.generations.deadline(), self.processes.escalation()];
            let deadline = deadline.into_iter().flatten().min();
            let wake = tokio::select! {
                () = shutdown.cancelled(), if !ending => Wake::Shutdown,
                Some(request) = self.requests.recv() => Wake::Request(Box::new(request)),
                () = self.users.changed() => Wake::Left,
                Ok(message) = self.control.recv() => Wake::Message(message),
                Some(event) = pipes.recv() => Wake::Pipe(event),
                generation = self.processes.ended() => Wake::Ended(generation),
                Some((generation, news)) = self.news.1.recv() => Wake::News(generation, news),
                Some(symbol) = self.silent.1.recv() => Wake::Silent(symbol),
                () = self.symbols.changed.notified() => Wake::Functions,
                Ok(()) = self.functions.changed(), if self.instance > 0 => Wake::Wanted,
                Some(moved) = self.moves.join_next() => Wake::Moved(moved),
                _ = look.tick(), if !self.processes.is_empty() => Wake::Look,
                () = sleep_until(deadline) => Wake::Tick,
                Some(result) = self.tasks.join_next() => Wake::Joined(result),
            };
            match wake {
                Wake::Shutdown => {
                    ending = true;
                    self.handle(Happening::Stop("the host is stopping".to_owned()))
                        .await;
                }
                Wake::Request(request) => self.handle_request(*request).await,
                Wake::Left => {
                    for id in self.users.take_left() {
                        self.handle(Happening::Close(id)).await;
                    }
                }
                Wake::Message(message) => self.handle_message(message).await,
                Wake::Pipe(sp_proto::Event::Missed(_)) => {
                    let missed = missed::changes(self.processes.foreign_pipes(), self.control.pipes());
                    for pipe in missed.removed {
                        self.handle_gone(pipe).await;
                    }
                }
                Wake::Pipe(event) => self.handle_pipe(event).await,
                Wake::Ended(generation) => self.handle_ended(generation).await,
                Wake::News(generation, news) => self.handle_news(generation, news).await,
                Wake::Silent(symbol) => self.handle_silent(&symbol).await,
                Wake::Functions => self.handle_functions().await,
                Wake::Wanted => self.open_wanted().await,
                Wake::Moved(Ok(moved)) => self.handle_moved(moved).await,
                Wake::Look => {
                    for (generation, halted) in self.processes.look() {
                        self.handle(Happening::Of(generation, Event::Halted(halted)))
                            .await;
                    }
                }
                Wake::Tick => {
                    self.processes.escalate(Instant::now());
                    self.handle(Happening::Tick).await;
                }
                Wake::Joined(Err(error)) | Wake::Moved(Err(error)) => {
                    tracing::error!(plugin = %self.plugin, "the task of a symbol died: {error}");
                }
                Wake::Joined(Ok(())) => {}
            }
            if self.spare && !self.symbols.have_ends() {
                (self.spare, self.retiring) = (false, true);
                self.handle(Happening::Stop("its version has fewer instances".to_owned()))
                    .await;
            }
            if self.processes.is_empty() {
                // Nothing has to be started, but there has to be something to connect to.
                if !ending && let Err(reason) = self.await_attached().await {
                    self.handle(Happening::Stop(reason)).await;
                }
                self.stopping.drain(..).for_each(|reply| answer(reply, ()));
                if ending || self.is_retired().await {
                    break;
                }
            }
        }
        self.moves.shutdown().await;
        self.symbols.stop();
        self.news.1.close();
        self.processes.close_sessions();
        while self.tasks.join_next().await.is_some() {}
        self.control.close().await;
        // Whoever takes its place may listen where it did.
        self.requests.close();
        self.instances.end(self.instance);
        // One that is too many was shown until now.
        self.events.changes.note();
    }

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Start(assignment, reply) => {
                let Assignment { manifest, launch } = *assignment;
                (self.retiring, self.spare) = (false, false);
                self.records.retain_defined(&manifest);
                let ticket = self.ticket(reply);
                self.launches.insert(ticket, launch);
                let limits = Limits {
                    start: manifest
                        .start_timeout
                        .map_or(self.settings.start_timeout, Duration::from_millis),
                    command: self.settings.command_timeout,
                    grace: self.settings.stop_grace,
                };
                self.handle(Happening::Start(ticket, manifest, limits)).await;
                let used: Vec<Ticket> = self.generations.tickets().collect();
                self.launches.retain(|ticket, _| used.contains(ticket));
            }
            Request::Stop {
                reason,
                retire,
                reply,
            } => {
                self.retiring = retire;
                self.stopping.push(reply);
                self.handle(Happening::Stop(reason)).await;
            }
            Request::Attach(manifest, reply) => {
                self.stopping.push(reply);
                self.attached = Some(manifest);
                self.handle(Happening::Attach).await;
            }
            Request::Open(id, symbol, ends, reply) => {
                self.symbols.note_opening(id, ends, reply);
                self.handle(Happening::Open(id, *symbol)).await;
            }
            Request::Close(id, reply) => {
                self.symbols.note_closing(id, reply);
                self.handle(Happening::Close(id)).await;
            }
            Request::Spare => self.spare = true,
            Request::Function(symbol, reply) => self.open_function(symbol, reply).await,
        }
    }

    fn ticket(&mut self, reply: oneshot::Sender<Outcome>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.starting.insert(ticket, reply);
        ticket
    }

    async fn handle_gone(&mut self, pipe: PipeId) {
        if let Some(owner) = self.processes.forget(pipe) {
            self.handle(Happening::Of(owner, Event::Gone(pipe))).await;
        }
    }

    async fn handle_pipe(&mut self, event: sp_proto::Event) {
        match event {
            sp_proto::Event::PipeRemoved { pipe, .. } => self.handle_gone(pipe.id).await,
            sp_proto::Event::PeerRefused { peer_address, reason } => {
                let plugin = &self.plugin;
                tracing::warn!(%plugin, "refused a control connection of {peer_address}: {reason}");
            }
            _ => {}
        }
    }

    async fn handle_message(&mut self, message: sp_proto::Request) {
        let pipe = message.pipe();
        let Some(owner) = self.admit(pipe) else { return };
        if !self.processes.take_foreign(owner) {
            // It speaks our own contract already.
            self.control.disconnect(pipe);
            return;
        }
        let manifest = self.generations.manifest(owner);
        // One that its author starts is alone.
        let is_attached = self.generations.standing().attached && owner == self.generations.current();
        if let Some(manifest) = manifest.filter(|manifest| manifest.instances > 1 && !is_attached) {
            self.control.disconnect(pipe);
            self.condemn_foreign(owner, manifest.instances).await;
            return;
        }
        let request = control::Request::decode(message.body());
        tracing::trace!(plugin = %self.plugin, ?pipe, ?request, "control message");
        let id = message.id();
        // (One that the life cycle ignores because it is a repetition may stay here: it is displaced before
        // anything can be sent.)
        self.processes.hold(message);
        self.handle(Happening::Of(owner, Event::Message(pipe, id, request)))
            .await;
    }

    /// Its addresses are fixed, so two processes of it cannot be told apart; and one would do less than the manifest
    /// says.
    async fn condemn_foreign(&mut self, owner: Generation, instances: u32) {
        let reason = format!(
            "it speaks eKuiper's contract, of which only one process can run; \
             its manifest asks for {instances} instances"
        );
        if owner == self.generations.current() {
            for other in self.instances.others().values() {
                let (reply, _nobody) = oneshot::channel();
                let (reason, retire) = (reason.clone(), false);
                // One that is too busy gives up by itself: it is not listened to either.
                let _ = other.requests.try_send(Request::Stop {
                    reason,
                    retire,
                    reply,
                });
            }
        }
        self.handle(Happening::Of(owner, Event::Condemn(reason))).await;
    }

    /// Whose connection this is; a stranger's is closed.
    fn admit(&mut self, pipe: PipeId) -> Option<Generation> {
        if let Some(owner) = self.processes.owner(pipe) {
            return Some(owner);
        }
        // A pipe that is gone has nothing to say any more.
        let info = self.control.pipes().into_iter().find(|info| info.id == pipe)?;
        let pid = info.credentials.and_then(|peer| peer.pid);
        let owner = match self.processes.identify(&info) {
            Owner::Known(owner) => Some(owner),
            Owner::Stranger if self.generations.standing().attached => {
                let current = self.generations.current();
                self.processes.attach(pid).then_some(current)
            }
            Owner::Stranger if self.settings.admits_any_peer() => Some(self.generations.expected()),
            Owner::Stranger => None,
        };
        match owner {
            Some(owner) => self.processes.admit(pipe, owner),
            None => {
                self.control.disconnect(pipe);
                // It was admitted, but whose it was has ended meanwhile, or another one was attached.
                let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                self.peers
                    .note_refused(&format!("process {pid} is none of the plugin's any more"));
            }
        }
        owner
    }

    async fn handle_ended(&mut self, generation: Generation) {
        let Some(process) = self.processes.remove(generation) else {
            return;
        };
        let started = process.started();
        let mut how = process.reap().await.to_string();
        if let Some(last) = self.output.last_error(started) {
            how = format!("{how}; it said last: {last}");
        }
        self.symbols.note_ended(generation);
        self.handle(Happening::Of(generation, Event::Exited(how))).await;
    }

    /// Hands `happening` to the life cycle and does what it decides, until nothing follows any more.
    async fn handle(&mut self, happening: Happening<PipeId>) {
        let mut happenings = VecDeque::from([happening]);
        while let Some(happening) = happenings.pop_front() {
            let deeds = self.generations.handle(happening, Instant::now());
            // What is to be done may take a moment; how it is, is shown at once.
            self.publish();
            for deed in deeds {
                happenings.extend(self.carry_out(deed).await);
            }
        }
        self.publish();
        let settled = self.settled.drain(..);
        settled.for_each(|(reply, outcome)| answer(reply, outcome));
    }

    /// Whether the task can end: it was told to, and nobody waits for the plugin's return.
    async fn is_retired(&mut self) -> bool {
        if !self.retiring || !self.generations.is_down() {
            return false;
        }
        if let Some((endpoint, _elsewhere)) = self.endpoint.take() {
            self.control.close_endpoint(endpoint).await;
        }
        self.symbols.are_unused(self.generations.uses())
    }

    fn publish(&self) {
        let standing = self.generations.standing();
        self.peers
            .set_attaching(match (standing.attached, self.processes.attached()) {
                (false, _) => Attaching::No,
                (true, None) => Attaching::Waiting,
                (true, Some(pid)) => Attaching::To(pid),
            });
        let current = self.generations.current();
        let snapshot = Snapshot {
            state: standing.state,
            reason: standing.reason,
            pid: self.processes.pid(current),
            restarts: standing.restarts,
            started: self.processes.started(current),
            version: standing.version.unwrap_or_default(),
            note: standing.note,
            attached: standing.attached,
            foreign: standing.state == State::Running && !self.processes.has_session(current),
        };
        // Nobody else changes it.
        if *self.status.borrow() == snapshot {
            return;
        }
        let has_news = !snapshot.note.is_empty() && snapshot.note != self.status.borrow().note;
        let plugin = &self.plugin;
        // Nothing in a log about a plugin that has but one.
        let instance = (self.instances.wanted() > 1).then_some(self.instance);
        match snapshot.state {
            State::Restarting | State::Failed | State::Unhealthy => {
                tracing::warn!(%plugin, instance, "{snapshot}");
            }
            _ => tracing::info!(%plugin, instance, version = snapshot.version, "{snapshot}"),
        }
        if has_news {
            tracing::warn!(%plugin, instance, "{}", snapshot.note);
        }
        self.status.send_replace(snapshot.clone());
        let (whole, is_turned) = self.instances.note(self.instance, &snapshot);
        if let Some(whole) = whole {
            self.events.announce(&self.plugin, &whole);
        }
        if is_turned {
            self.events.usable.note();
        }
        self.events.changes.note();
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

#[cfg(test)]
mod tests;
