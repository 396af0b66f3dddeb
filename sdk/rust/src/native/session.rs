//! Owns one session with a host, from its `welcome` on: what the host asks for, the uses that run, and their end.
//!
//! It never waits for a symbol: each use has a task of its own, which answers for itself. Only when the host takes no
//! message does it stop reading. Driven by [`super::serve`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::control::{Answer, Role, Start, Stop, ToHost, ToPlugin, Unknown, Validate};
use mangrove_protocol::native::opening::Limits;
use serde_json::Value;
use sp_proto::{Event, Events, Message, RecvError, SocketOptions};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::link::Link;
use super::orders::{End, Order, Orders};
use super::using::Use;
use super::{function, sink, source};
use crate::commits::Commits;
use crate::context::Place;
use crate::error::describe;
use crate::guard::guard_call;
use crate::metrics::{Changes, Figures};
use crate::symbols::Symbols;
use crate::{Options, log};

/// So many messages in a row that cannot be read, and the connection is given up.
const MAX_FAULTS: u32 = 10;

/// How often figures are told while they change.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// What a session is begun with.
pub(super) struct Parts {
    pub(super) symbols: Arc<Symbols>,
    pub(super) options: Arc<Options>,
    pub(super) socket: SocketOptions,
    /// Where the host's control channel is.
    pub(super) control: String,
    pub(super) limits: Limits,
}

/// Why a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was asked to end, by the host or a signal.
    Finished,
    /// The connection broke.
    Broken,
    /// The host does not want this plugin any more.
    Refused(String),
}

pub(super) struct Session {
    parts: Parts,
    link: Arc<Link>,
    events: Events,
    log: log::Session,
    uses: HashMap<UseNumber, Running>,
    tasks: JoinSet<UseNumber>,
    changes: Arc<Changes>,
    flush_at: Option<Instant>,
    /// Messages that the host did not take yet.
    backlog: VecDeque<Message>,
    faults: u32,
    /// Every use has been told to end; then those that have not are dropped.
    ending: Option<Instant>,
}

struct Running {
    orders: Arc<Orders>,
    figures: Arc<Figures>,
    commits: Arc<Commits>,
}

enum Wake {
    Stop,
    Message(Result<Message, RecvError>),
    Sent,
    Event(Option<Event>),
    Ended(Option<Result<UseNumber, JoinError>>),
    FiguresChanged,
    FlushFigures,
    TimeIsUp,
}

impl Session {
    pub(super) fn new(parts: Parts, link: Arc<Link>, events: Events) -> Self {
        Self {
            parts,
            log: log::Session::open(&link),
            link,
            events,
            uses: HashMap::new(),
            tasks: JoinSet::new(),
            changes: Arc::default(),
            flush_at: None,
            backlog: VecDeque::new(),
            faults: 0,
            ending: None,
        }
    }

    pub(super) async fn run(self, stop: &CancellationToken) -> Outcome {
        let span = self.log.span();
        self.serve(stop).instrument(span).await
    }

    async fn serve(mut self, stop: &CancellationToken) -> Outcome {
        let outcome = loop {
            if self.ending.is_some() && self.tasks.is_empty() {
                break Outcome::Finished;
            }
            let wake = self.wait(stop).await;
            if let Some(outcome) = self.handle(wake) {
                break outcome;
            }
        };
        if outcome == Outcome::Finished {
            self.finish().await;
        } else {
            self.abandon().await;
        }
        outcome
    }

    async fn wait(&mut self, stop: &CancellationToken) -> Wake {
        let blocked = self.backlog.front();
        tokio::select! {
            () = stop.cancelled(), if self.ending.is_none() => Wake::Stop,
            message = self.link.pair.recv(), if blocked.is_none() => Wake::Message(message),
            // A copy: what is sent half-way is given up with the connection.
            _ = self.link.pair.send(blocked.cloned().unwrap_or_default()), if blocked.is_some() => Wake::Sent,
            event = self.events.recv() => Wake::Event(event),
            ended = self.tasks.join_next(), if !self.tasks.is_empty() => Wake::Ended(ended),
            () = self.changes.wait(), if self.flush_at.is_none() => Wake::FiguresChanged,
            () = until(self.flush_at) => Wake::FlushFigures,
            () = until(self.ending) => Wake::TimeIsUp,
        }
    }

    fn handle(&mut self, wake: Wake) -> Option<Outcome> {
        match wake {
            Wake::Stop => {
                let grace = self.parts.options.stop_grace;
                self.end_all(grace * 3 / 2, End::Drained(None));
            }
            Wake::Message(Ok(message)) => return self.handle_message(&message),
            Wake::Message(Err(RecvError::TimedOut)) => {}
            Wake::Message(Err(_)) | Wake::Event(None) => return Some(Outcome::Broken),
            Wake::Sent => {
                self.backlog.pop_front();
            }
            Wake::Event(Some(Event::PipeRemoved { reason, .. })) => return Some(self.handle_break(&reason)),
            Wake::Event(Some(_)) => {}
            Wake::Ended(Some(Ok(number))) => {
                self.uses.remove(&number);
            }
            // The author's futures are guarded; what is left is a destructor of theirs or a fault of ours.
            Wake::Ended(Some(Err(error))) => tracing::error!(%error, "a use of a symbol ended badly"),
            Wake::Ended(None) => {}
            Wake::FiguresChanged => self.flush_at = Some(Instant::now() + FIGURES_EVERY),
            Wake::FlushFigures => self.flush_figures(),
            Wake::TimeIsUp => return Some(Outcome::Finished),
        }
        None
    }

    /// A host may say goodbye and be gone before it is heard.
    fn handle_break(&mut self, reason: &str) -> Outcome {
        while let Ok(Some(message)) = self.link.pair.try_recv() {
            if let Ok(ToPlugin::Shutdown(shutdown)) = ToPlugin::decode(&message) {
                self.end_all(Duration::from_millis(shutdown.timeout), End::Drained(None));
                return Outcome::Finished;
            }
        }
        tracing::warn!(reason, "the connection to the host broke");
        Outcome::Broken
    }

    fn handle_message(&mut self, message: &[u8]) -> Option<Outcome> {
        let message = match ToPlugin::decode(message) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "a message of the host was not understood");
                if let Some(id) = ToPlugin::request_id(message) {
                    self.answer(id, Err(error.to_string()));
                }
                self.faults += 1;
                return (self.faults >= MAX_FAULTS).then_some(Outcome::Broken);
            }
        };
        self.faults = 0;
        match message {
            ToPlugin::Start(id, start) => self.start(id, *start),
            ToPlugin::Validate(id, validate) => {
                let outcome = self.validate(&validate);
                self.answer(id, outcome);
            }
            ToPlugin::Stop(id, stop) => self.stop(id, &stop),
            ToPlugin::Ping(id) => self.answer(id, Ok(Value::Null)),
            ToPlugin::Shutdown(shutdown) => {
                tracing::info!("stopping, as the host asks");
                self.end_all(Duration::from_millis(shutdown.timeout), End::Drained(None));
            }
            ToPlugin::Answer(answer) => {
                if !self.link.answered(answer) {
                    tracing::debug!("an answer came that nobody waits for");
                }
            }
            ToPlugin::Refused(refused) => return Some(Outcome::Refused(refused.reason)),
            ToPlugin::Unknown(Unknown { kind, id: Some(id) }) => {
                self.answer(id, Err(format!("this plugin knows no {kind:?}")));
            }
            ToPlugin::Commit(commit) => {
                if let Some(running) = self.uses.get(&commit.number) {
                    running.commits.commit(commit.seq);
                }
            }
            ToPlugin::Welcome(_) | ToPlugin::Unknown(_) => {}
        }
        None
    }

    fn start(&mut self, id: u64, start: Start) {
        let number = start.number;
        if self.ending.is_some() {
            return self.answer(id, Err("the plugin is ending".to_owned()));
        }
        if self.uses.contains_key(&number) {
            return self.answer(id, Err(format!("use {number} runs already")));
        }
        let figures = Figures::new(number, Arc::clone(&self.changes));
        let running = Running {
            orders: Arc::default(),
            figures: Arc::clone(&figures),
            commits: Arc::default(),
        };
        let using = Use {
            number,
            symbol: start.symbol,
            link: Arc::clone(&self.link),
            orders: Arc::clone(&running.orders),
            figures,
            commits: Arc::clone(&running.commits),
            limits: self.parts.limits,
            options: Arc::clone(&self.parts.options),
            socket: self.parts.socket.clone(),
            address: Use::data_address(&start.address, &self.parts.control),
            session: self.log.number,
        };
        match self.work(&using.symbol, start.role) {
            Ok(work) => {
                self.uses.insert(number, running);
                self.tasks.spawn(run(using, id, work).in_current_span());
            }
            Err(error) => self.answer(id, Err(error.to_string())),
        }
    }

    fn work(
        &self,
        symbol: &mangrove_protocol::name::SymbolName,
        role: Role,
    ) -> Result<Work, crate::symbols::Unknown> {
        let symbols = &self.parts.symbols;
        let place = |place: mangrove_protocol::native::control::Place| Place {
            rule: place.rule_id.to_string(),
            op: place.op_id.to_string(),
            instance: place.instance_id,
            call_site: None,
        };
        Ok(match role {
            Role::Source {
                place: whose,
                data_source,
                config,
                offset,
            } => Work::Source(source::Opening {
                open: symbols.source(symbol)?,
                place: place(whose),
                data_source,
                config,
                offset,
            }),
            Role::Sink {
                place: whose,
                config,
                ack,
            } => Work::Sink(sink::Opening {
                open: symbols.sink(symbol)?,
                place: place(whose),
                config,
                ack,
            }),
            Role::Function => Work::Function(symbols.function(symbol)?),
        })
    }

    fn validate(&self, validate: &Validate) -> Result<Value, String> {
        let function = self
            .parts
            .symbols
            .function(&validate.symbol)
            .map_err(|error| error.to_string())?;
        match guard_call(|| function.validate(&validate.args)) {
            Ok(Ok(())) => Ok(Value::Null),
            Ok(Err(error)) => Err(describe(error.as_ref())),
            Err(panicked) => Err(panicked.to_string()),
        }
    }

    fn stop(&mut self, id: u64, stop: &Stop) {
        let number = stop.number;
        let Some(running) = self.uses.get(&number) else {
            return self.answer(id, Err(format!("use {number} does not run")));
        };
        let timeout = Duration::from_millis(stop.timeout);
        let order = Order::within(timeout, self.parts.options.stop_grace, End::Drained(stop.seq));
        if !running.orders.give(order, Some(id)) {
            self.answer(id, Err(format!("use {number} is being stopped already")));
        }
    }

    fn end_all(&mut self, timeout: Duration, end: End) {
        let grace = self.parts.options.stop_grace;
        for running in self.uses.values() {
            running.orders.give(Order::within(timeout, grace, end), None);
        }
        self.ending.get_or_insert_with(|| Instant::now() + timeout);
    }

    fn answer(&mut self, id: u64, outcome: Result<Value, String>) {
        self.post(&ToHost::Answer(Answer { id, outcome }));
    }

    /// Sends a message, or keeps it until the host takes it; then nothing is read.
    fn post(&mut self, message: &ToHost) {
        let message = Message::from(message.encode());
        if !self.backlog.is_empty() {
            self.backlog.push_back(message);
        } else if let Err(error) = self.link.pair.try_send(message) {
            self.backlog.push_back(error.message);
        }
    }

    fn flush_figures(&mut self) {
        self.flush_at = None;
        self.changes.begin();
        let changed: Vec<_> = self
            .uses
            .values()
            .flat_map(|running| running.figures.take_changed())
            .collect();
        for metric in changed {
            self.post(&ToHost::Metric(metric));
        }
    }

    /// Everything has ended, or its time is up; what is queued still goes out.
    async fn finish(mut self) {
        if !self.tasks.is_empty() {
            tracing::warn!(uses = self.tasks.len(), "did not stop in time and were dropped");
        }
        self.tasks.shutdown().await;
        let rest = async {
            for message in self.backlog {
                if self.link.pair.send(message).await.is_err() {
                    return;
                }
            }
        };
        // A host that takes nothing is not waited for.
        let _ = timeout(self.parts.options.send_timeout, rest).await;
        self.link.close().await;
    }

    /// The host is gone: everything that ran for it ends.
    async fn abandon(mut self) {
        self.link.close().await;
        let grace = self.parts.options.stop_grace;
        self.end_all(grace, End::Broken);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(grace, ended).await;
        self.tasks.shutdown().await;
    }
}

/// What the task of a use does.
enum Work {
    Source(source::Opening),
    Sink(sink::Opening),
    Function(Arc<dyn crate::erased::AnyFunction>),
}

async fn run(using: Use, request: u64, work: Work) -> UseNumber {
    let all = async {
        match work {
            Work::Source(opening) => source::run(&using, request, opening).await,
            Work::Sink(opening) => sink::run(&using, request, opening).await,
            Work::Function(function) => function::run(&using, request, function).await,
        }
    };
    let in_time = tokio::select! {
        biased;
        () = all => true,
        () = using.orders.deadline() => false,
    };
    using.tell_figures().await;
    // Mostly it has been answered for by now.
    let outcome = if in_time {
        Ok(Value::Null)
    } else {
        tracing::warn!(symbol = %using.symbol, "did not stop in time and was dropped");
        Err("it did not stop in time and was dropped".to_owned())
    };
    using.answer_stop(outcome).await;
    using.number
}

/// Never completes without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
