//! Owns the control channel of one process, in one task. What the life cycle decides comes as an [`Order`], what
//! it has to know goes out as [`News`]; acknowledgements, state, logs and figures never bother it.

mod commands;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mangrove_protocol::control::Command;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use mangrove_protocol::native::control::{Answer, Commit, Shutdown, ToHost, ToPlugin, Unknown, Validate};
use mangrove_protocol::native::opening::{Hello, Refused, Symbols, Welcome};
use mangrove_protocol::native::{CONTROL_VARIABLE, PLUGIN_VARIABLE, TOKEN_VARIABLE, VERSIONS};
use serde_json::Value;
use sp_proto::{Events, Message, Pair, PipeId, SocketOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::{Answered, Asked, Desk};
use super::link::Link;
use super::remote::Door;
use super::{LAST_WORDS, Native, limits, milliseconds, opening, options, remote, sleep_until};
use crate::config::Portable;
use crate::plugin::causes::with_sources;
use crate::plugin::channel::Ends;
use crate::plugin::lifecycle::{Generation, UseId};
use crate::plugin::missed;
use crate::plugin::output::Output;
use crate::plugin::peers::Peers;
use crate::plugin::record::Records;
use crate::plugin::users::Rules;

/// Orders that may wait for the session.
const ORDERS: usize = 64;

/// Messages that may wait until the plugin reads; then nothing is read from it either.
const OUTBOX: usize = 256;

/// How long a connection from another machine may be silent before it says hello.
const HELLO: Duration = Duration::from_secs(10);

/// How long, when somebody else is at the door.
const HURRY: Duration = Duration::from_secs(1);

/// How long a plugin that was refused has to read why.
const REFUSED: Duration = Duration::from_secs(1);

/// What a session is to do.
#[derive(Debug)]
pub(in crate::plugin) enum Order {
    /// Start a symbol with these ends of its data channel, or stop it.
    Command(UseId, Box<Command>, Option<Ends>),
    /// Ask a function whether it takes arguments.
    Validate(Validate, oneshot::Sender<Result<Value, String>>),
    /// Tell a source what is safe, when this version of the store is on the disk.
    Commit { number: u64, seq: u64, version: u64 },
    /// The channel of a function has no connection, though it may have had one.
    Lost { number: u64, was_connected: bool },
    /// Stop a function, which has answered its calls.
    StopFunction { number: u64 },
    /// Let the functions answer their calls, then ask the process to end within this time.
    Shutdown(Duration),
    /// Ask it now.
    End(Duration),
    /// Forget the process; another one may come.
    Reset,
}

/// What the life cycle has to know. All of it is about the connection that is named.
#[derive(Debug)]
pub(in crate::plugin) enum News {
    /// A process is there, this one if the system tells, and runs nothing.
    Hello(PipeId, Option<u32>),
    /// The newest command was carried out, or not.
    Answered(PipeId, Result<(), String>),
    /// It is alive.
    Heard(PipeId),
    /// It has not answered a ping for so long.
    Deaf(Duration),
    /// The connection is gone.
    Gone(PipeId),
    /// The process runs this function, whose channel has no connection. False: it has never had one.
    Lost(UseId, bool),
}

/// What a session is made of.
pub(in crate::plugin) struct Setup {
    pub(in crate::plugin) generation: Generation,
    /// Which of the plugin's instances it belongs to.
    pub(in crate::plugin) instance: u32,
    pub(in crate::plugin) manifest: Arc<Manifest>,
    pub(in crate::plugin) settings: Arc<Portable>,
    pub(in crate::plugin) peers: Arc<Peers>,
    pub(in crate::plugin) output: Arc<Output>,
    pub(in crate::plugin) records: Arc<Records>,
    pub(in crate::plugin) native: Arc<Native>,
    /// Who uses the plugin.
    pub(in crate::plugin) rules: Arc<Rules>,
    pub(in crate::plugin) news: mpsc::Sender<(Generation, News)>,
    /// The process may run on another machine.
    pub(in crate::plugin) remote: bool,
}

/// The worker's end. Dropped: the session reads what the process has said last, and ends.
#[derive(Debug)]
pub(in crate::plugin) struct Session {
    orders: mpsc::Sender<Order>,
    environment: Vec<(String, String)>,
    links: Links,
    stop: CancellationToken,
    /// The process has said hello.
    pub(in crate::plugin) open: bool,
}

type Links = Arc<Mutex<HashMap<UseId, Arc<Link>>>>;

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Session {
    /// Listens for a process. `tasks` get the session's work.
    ///
    /// # Errors
    /// Nobody can listen there, or there is no randomness.
    pub(in crate::plugin) async fn start(setup: Setup, tasks: &mut JoinSet<()>) -> Result<Self, String> {
        let token = token().map_err(|error| format!("there is no token for it: {error}"))?;
        let door = Arc::<Door>::default();
        let (options, address) = if setup.remote {
            let options = remote::options(&setup.settings, &door).await?;
            (options, setup.settings.remote.clone())
        } else {
            let admission = setup.peers.admission();
            (options(&setup.settings, &admission), setup.native.next_address())
        };
        let socket = Pair::with_options(options.clone());
        let events = socket.events();
        let endpoint = socket.listen(&address).await;
        let address = endpoint.map_err(|error| with_sources(&error))?.address;
        let (orders, received) = mpsc::channel(ORDERS);
        let links = Links::default();
        let stop = CancellationToken::new();
        let plugin = setup.manifest.name.clone();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            variable(CONTROL_VARIABLE, &address),
            variable(TOKEN_VARIABLE, &token),
            variable(PLUGIN_VARIABLE, plugin.as_str()),
        ];
        let task = Task {
            desk: Desk::new(setup.native.states.clone(), Arc::clone(&setup.rules)),
            durable: setup.native.states.durable(),
            plugin,
            token,
            address,
            options,
            socket,
            events,
            orders: received,
            own: orders.downgrade(),
            links: Arc::clone(&links),
            functions: JoinSet::new(),
            stop: stop.clone(),
            pipe: None,
            standing: Standing::Silent(None),
            symbols: Symbols::default(),
            outbox: VecDeque::new(),
            door,
            held: None,
            next_ping: Instant::now() + setup.settings.ping_interval,
            heard: false,
            deaf: false,
            setup,
        };
        tasks.spawn(task.run());
        Ok(Self {
            orders,
            environment,
            links,
            stop,
            open: false,
        })
    }

    /// What the process has to find in its environment. Has the token: not for any log.
    pub(in crate::plugin) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Gives an order. One that finds no room because the plugin does not read is lost, and its answer missed.
    pub(in crate::plugin) fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::debug!("an order to a session was lost: {error}");
        }
    }

    /// The channel of a function that the process runs.
    pub(in crate::plugin) fn link(&self, id: UseId) -> Option<Arc<Link>> {
        super::lock(&self.links).get(&id).cloned()
    }
}

/// 32 hex digits that nobody can guess.
fn token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not said hello on this connection, which a stranger's has to do by then.
    Silent(Option<Instant>),
    Open,
    /// It is given a moment to read why.
    Refused(Instant),
}

struct Task {
    setup: Setup,
    plugin: PluginName,
    token: String,
    /// Where it listens.
    address: String,
    options: SocketOptions,
    socket: Pair,
    events: Events,
    orders: mpsc::Receiver<Order>,
    /// For the channels; weak, so that the worker's end is what keeps the session.
    own: mpsc::WeakSender<Order>,
    links: Links,
    functions: JoinSet<()>,
    stop: CancellationToken,
    pipe: Option<PipeId>,
    standing: Standing,
    symbols: Symbols,
    desk: Desk,
    /// The version of the states that is on the disk.
    durable: watch::Receiver<u64>,
    outbox: VecDeque<Message>,
    door: Arc<Door>,
    /// A hello that came while the last words of the connection before were read.
    held: Option<Message>,
    next_ping: Instant,
    /// Something was heard since the last ping was due.
    heard: bool,
    deaf: bool,
}

enum Wake {
    Stop,
    Order(Order),
    Message(Message),
    Sent,
    Pipe(sp_proto::Event),
    Ping,
    Durable,
    Linked,
    Expelled,
}

impl Task {
    async fn run(mut self) {
        loop {
            let expelled = match self.standing {
                Standing::Refused(at) => Some(at),
                Standing::Silent(at) => at,
                Standing::Open => None,
            };
            let wake = tokio::select! {
                biased;
                () = self.stop.cancelled() => Wake::Stop,
                Some(event) = self.events.recv() => Wake::Pipe(event),
                Some(order) = self.orders.recv() => Wake::Order(order),
                sent = send(&self.socket, self.outbox.front()) => {
                    let _ = sent;
                    Wake::Sent
                }
                Ok(message) = self.socket.recv(), if self.outbox.len() < OUTBOX => Wake::Message(message),
                () = tokio::time::sleep_until(self.next_ping), if self.standing == Standing::Open => Wake::Ping,
                Ok(()) = self.durable.changed(), if !self.desk.commits.is_empty() => Wake::Durable,
                () = sleep_until(expelled) => Wake::Expelled,
                Some(_) = self.functions.join_next() => Wake::Linked,
            };
            match wake {
                Wake::Stop => break,
                Wake::Order(order) => self.handle_order(order).await,
                Wake::Message(message) => self.handle_message(&message).await,
                Wake::Sent => {
                    self.outbox.pop_front();
                    self.send_commits();
                }
                Wake::Durable => self.send_commits(),
                Wake::Pipe(event) => self.handle_event(event).await,
                Wake::Ping => self.handle_ping().await,
                Wake::Expelled => self.disconnect(),
                Wake::Linked => {}
            }
        }
        self.read_last_words().await;
        self.desk.reset();
        while self.functions.join_next().await.is_some() {}
        self.socket.close().await;
    }

    async fn tell(&self, news: News) {
        // The worker may have ended.
        let _ = self.setup.news.send((self.setup.generation, news)).await;
    }

    fn send(&mut self, message: &ToPlugin) {
        let message = Message::from(message.encode());
        if !self.outbox.is_empty() || self.socket.try_send(message.clone()).is_err() {
            self.outbox.push_back(message);
        }
    }

    /// Tells sources what is safe, as far as the plugin reads: what it has no room for, the next word says as well.
    fn send_commits(&mut self) {
        let durable = *self.durable.borrow_and_update();
        while self.outbox.len() < OUTBOX
            && let Some((number, seq)) = self.desk.commits.take(durable)
        {
            self.send(&ToPlugin::Commit(Commit { number, seq }));
        }
    }

    fn disconnect(&mut self) {
        if let Some(pipe) = self.pipe {
            self.socket.disconnect(pipe);
        }
        self.standing = Standing::Silent(None);
    }

    async fn handle_event(&mut self, event: sp_proto::Event) {
        if !matches!(event, sp_proto::Event::Missed(_)) {
            return self.handle_pipe(event).await;
        }
        let missed = missed::changes(self.pipe, self.socket.pipes());
        for pipe in missed.removed {
            self.handle_removed(pipe).await;
        }
        for info in missed.added {
            self.handle_pipe(sp_proto::Event::PipeAdded(info)).await;
        }
    }

    async fn handle_removed(&mut self, pipe: PipeId) {
        if self.pipe != Some(pipe) {
            return;
        }
        self.drain().await;
        self.pipe = None;
        self.outbox.clear();
        if self.standing == Standing::Open {
            self.desk.reset();
            super::lock(&self.links).clear();
            self.tell(News::Gone(pipe)).await;
        }
        self.standing = Standing::Silent(None);
    }

    async fn handle_pipe(&mut self, event: sp_proto::Event) {
        match event {
            // Later ones have higher ids; one that comes late was seen when others were missed.
            sp_proto::Event::PipeAdded(info) if self.pipe < Some(info.id) => {
                self.pipe = Some(info.id);
                let until = self.setup.remote.then(|| Instant::now() + HELLO);
                self.standing = Standing::Silent(until);
                if self.setup.remote {
                    self.door.open();
                    self.options.admission = remote::same_machine(&info.peer_address);
                }
                if let Some(hello) = self.held.take() {
                    self.handle_message(&hello).await;
                }
            }
            sp_proto::Event::PipeRemoved { pipe, .. } => self.handle_removed(pipe.id).await,
            sp_proto::Event::PeerRefused { peer_address, reason } => {
                let plugin = &self.plugin;
                tracing::warn!(%plugin, "refused a control connection of {peer_address}: {reason}");
                self.handle_knock(&peer_address);
            }
            _ => {}
        }
    }

    /// Somebody else wants the place of a connection from another machine. Whoever has it, and has not said hello, may be
    /// anybody: it has to hurry, and when it is gone the newcomer's machine is let in first.
    fn handle_knock(&mut self, peer_address: &str) {
        if self.standing == Standing::Open || !self.setup.remote || self.pipe.is_none() {
            return;
        }
        let pipes = self.socket.pipes().into_iter();
        let mut holders = pipes.filter(|info| Some(info.id) == self.pipe);
        // A machine does not keep the door for itself.
        let is_other = !holders.any(|info| remote::is_same_machine(&info.peer_address, peer_address));
        if is_other && !self.door.keep_for(peer_address, std::time::Instant::now()) {
            return;
        }
        if let Standing::Silent(Some(until)) = self.standing {
            let hurry = Instant::now() + HURRY;
            self.standing = Standing::Silent(Some(until.min(hurry)));
        }
    }

    /// What the connection that is gone has brought; not what one after it brings.
    async fn drain(&mut self) {
        while self.held.is_none()
            && let Ok(Some(message)) = self.socket.try_recv()
        {
            if matches!(ToHost::decode(&message), Ok(ToHost::Hello(_))) {
                self.held = Some(message);
            } else {
                self.handle_message(&message).await;
            }
        }
    }

    /// The process is gone or not wanted any more: what it has acknowledged or reported counts.
    async fn read_last_words(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        while self.pipe.is_some() && self.standing == Standing::Open {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.handle_event(event).await,
                Ok(message) = self.socket.recv() => self.handle_message(&message).await,
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    async fn handle_message(&mut self, message: &[u8]) {
        self.heard = true;
        let outcome = match ToHost::decode(message) {
            Ok(message) => self.understand(message).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(fault) = outcome {
            self.handle_fault(&fault);
        } else {
            self.desk.note_good();
        }
        if self.deaf
            && let Some(pipe) = self.pipe
        {
            self.deaf = false;
            self.tell(News::Heard(pipe)).await;
        }
    }

    fn handle_fault(&mut self, fault: &str) {
        self.setup.output.say_broken(fault);
        if self.desk.note_fault() {
            self.setup
                .output
                .say_broken("too many faults: its control connection is closed");
            self.disconnect();
        }
    }

    async fn understand(&mut self, message: ToHost) -> Result<(), String> {
        if let ToHost::Hello(hello) = message {
            self.handle_hello(hello).await;
            return Ok(());
        }
        match self.standing {
            Standing::Open => {}
            Standing::Silent(_) => return Err("expected \"hello\" as the first message".to_owned()),
            Standing::Refused(_) => return Ok(()),
        }
        match message {
            ToHost::Hello(_) => {}
            ToHost::State(id, request) => {
                let outcome = self.desk.handle_state(request).await;
                self.send(&ToPlugin::Answer(Answer { id, outcome }));
            }
            ToHost::Ping(id) => {
                let outcome = Ok(Value::Null);
                self.send(&ToPlugin::Answer(Answer { id, outcome }));
            }
            ToHost::Answer(answer) => self.handle_answer(answer).await?,
            ToHost::Ack(ack) => self.desk.handle_ack(ack)?,
            ToHost::Error(note) => {
                if let Some(entry) = self.desk.entry(note.number) {
                    entry.record.note_error(&note.error);
                }
            }
            ToHost::Log(log) => {
                let symbol = log.number.and_then(|number| self.desk.entry(number));
                let symbol = symbol.map(|entry| entry.symbol.as_str());
                self.setup.output.say(symbol, &log);
            }
            ToHost::Metric(metric) => {
                if let Some(entry) = self.desk.entry(metric.number) {
                    entry.record.note_metric(&metric);
                }
            }
            ToHost::Unknown(Unknown { kind, id: Some(id) }) => {
                let outcome = Err(format!("the host does not know the request {kind:?}"));
                self.send(&ToPlugin::Answer(Answer { id, outcome }));
            }
            ToHost::Unknown(Unknown { id: None, .. }) => {}
        }
        Ok(())
    }

    async fn handle_hello(&mut self, hello: Hello) {
        let Some(pipe) = self.pipe else { return };
        // Whatever it was, it is no more.
        self.desk.reset();
        super::lock(&self.links).clear();
        let agreed = match opening::check(&hello, &self.token, &self.setup.manifest) {
            Ok(agreed) => agreed,
            Err(reason) => {
                tracing::warn!(plugin = %self.plugin, "its hello is refused: {reason}");
                self.setup.output.say_broken(&format!("refused: {reason}"));
                self.standing = Standing::Refused(Instant::now() + REFUSED);
                let versions = VERSIONS.to_vec();
                self.send(&ToPlugin::Refused(Refused { reason, versions }));
                return;
            }
        };
        if !agreed.surplus.is_empty() {
            let surplus = agreed.surplus.join(", ");
            tracing::info!(plugin = %self.plugin, "not in its manifest, so not offered: {surplus}");
        }
        tracing::debug!(plugin = %self.plugin, sdk = hello.sdk, version = agreed.version, "hello");
        self.symbols = hello.symbols;
        self.standing = Standing::Open;
        self.door.open();
        (self.heard, self.deaf) = (true, false);
        self.next_ping = Instant::now() + self.setup.settings.ping_interval;
        self.send(&ToPlugin::Welcome(Welcome {
            version: agreed.version,
            host: concat!("mangrove/", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: self.setup.instance,
            encoding: "json".to_owned(),
            limits: limits(&self.setup.settings),
            ping_interval: milliseconds(self.setup.settings.ping_interval),
        }));
        let info = self.socket.pipes().into_iter().find(|info| info.id == pipe);
        let pid = info.and_then(|info| info.credentials?.pid);
        self.tell(News::Hello(pipe, pid)).await;
    }

    async fn handle_answer(&mut self, answer: Answer) -> Result<(), String> {
        let answered = self.desk.handle_answer(answer.id, answer.outcome)?;
        let Some(pipe) = self.pipe else { return Ok(()) };
        match answered {
            Answered::Command(outcome, link) => {
                if let Some((id, link)) = link {
                    link.note_started();
                    super::lock(&self.links).insert(id, link);
                }
                self.tell(News::Answered(pipe, outcome)).await;
            }
            Answered::Heard => {
                self.deaf = false;
                self.tell(News::Heard(pipe)).await;
            }
            Answered::Other => {}
        }
        Ok(())
    }

    /// Pings when nothing was heard for a while, or a command is unanswered; and says so when the last ping was not
    /// answered.
    async fn handle_ping(&mut self) {
        let interval = self.setup.settings.ping_interval;
        self.next_ping = Instant::now() + interval;
        let heard = std::mem::take(&mut self.heard);
        if self.desk.is_pinged() {
            if !heard && !self.deaf {
                self.deaf = true;
                self.tell(News::Deaf(interval)).await;
            }
        } else if !heard || self.desk.is_commanded() {
            let id = self.desk.ask(Asked::Ping);
            self.send(&ToPlugin::Ping(id));
        }
    }

    async fn handle_order(&mut self, order: Order) {
        match order {
            Order::Command(id, command, ends) => {
                let outcome = match *command {
                    Command::Start(symbol) => self.start(id, symbol, ends).await,
                    Command::Stop(_) => self.stop_use(id),
                };
                // It could not even be asked, or there is nothing to ask.
                if let (Some(outcome), Some(pipe)) = (outcome, self.pipe) {
                    self.tell(News::Answered(pipe, outcome)).await;
                }
            }
            // Commands come one after the other; who asks, there may be any number of.
            Order::Validate(_, reply) if self.outbox.len() >= OUTBOX || !self.desk.has_room() => {
                let reason = "the plugin does not read or answer what it is asked".to_owned();
                let _ = reply.send(Err(reason));
            }
            Order::Validate(request, reply) => {
                let id = self.desk.ask(Asked::Validate(reply));
                self.send(&ToPlugin::Validate(id, request));
            }
            Order::Commit { number, seq, version } => {
                if self.desk.entry(number).is_some() {
                    self.desk.commits.note(number, seq, version);
                    self.send_commits();
                }
            }
            Order::Lost {
                number,
                was_connected,
            } => {
                if let Some(id) = self.running_function(number) {
                    self.tell(News::Lost(id, was_connected)).await;
                }
            }
            Order::StopFunction { number } => {
                if self.desk.entry(number).is_some() {
                    self.send_stop(number, None);
                }
            }
            Order::Shutdown(limit) => self.shut_down(limit),
            Order::End(limit) => {
                let timeout = milliseconds(limit);
                self.send(&ToPlugin::Shutdown(Shutdown { timeout }));
            }
            Order::Reset => {
                self.desk.reset();
                super::lock(&self.links).clear();
                self.disconnect();
            }
        }
    }
}

async fn send(socket: &Pair, message: Option<&Message>) -> Result<(), sp_proto::SendError> {
    match message {
        Some(message) => socket.send(message.clone()).await,
        None => std::future::pending().await,
    }
}
