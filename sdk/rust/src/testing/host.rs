//! Owns the host within a test: its side of the control channel, and what it keeps for the plugin.
//!
//! It speaks the real contract over `inproc`, so what is tested is what runs in production. Knows nothing of rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mangrove_protocol::native::control::{
    Ack, Answer, Level, Log, MetricKind, Shutdown, StateRequest, ToHost, ToPlugin,
};
use mangrove_protocol::native::opening::{Hello, Limits, Welcome};
use mangrove_protocol::native::{UseNumber, VERSIONS};
use serde_json::Value;
use sp_proto::{Pair, SocketOptions};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{FunctionStart, SinkStart, SourceStart};
use crate::native::Endpoint;
use crate::state::{Memory, MemoryStore, Scope, State};
use crate::{Plugin, Result, RunError, log};

/// Turns a hang of the plugin into an error of the test.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

const TOKEN: &str = "test";

static HOSTS: AtomicU64 = AtomicU64::new(0);

/// A host within the test, with one plugin that runs in the test as well: no process, no file, no network.
///
/// Everything that the plugin does not do within 30 seconds is an error. Lines of the log come here through the global
/// `tracing` subscriber, which the first host sets unless there is one.
///
/// ```
/// use mangrove_sdk::testing::Host;
/// use mangrove_sdk::{Context, Function, Plugin, Result, Value};
/// use serde_json::json;
///
/// struct Tally;
///
/// impl Function for Tally {
///     async fn exec(&self, _: Vec<Value>, context: &Context) -> Result<Value> {
///         context.metrics().counter("calls").add(1);
///         Ok(context.state().add("calls", 1_u64).await?.into())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result {
/// let host = Host::start(Plugin::new("counting").function("tally", Tally)).await?;
/// let tally = host.function("tally").start().await?;
/// assert_eq!(tally.call(vec![]).await?, json!(1));
/// assert_eq!(tally.call(vec![]).await?, json!(2));
/// assert_eq!(host.state("tally", "rule").get::<u64>("calls").await?, Some(2));
/// tally.stop().await?;
/// assert_eq!(host.metric("tally", "calls"), Some(2.0));
/// host.stop().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Host {
    pub(super) link: Arc<Link>,
    plugin: JoinSet<Result<(), RunError>>,
    hello: Hello,
}

/// One line that the plugin has logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// How important it is: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// What it says.
    pub message: String,
    /// The symbol that has logged it, if it was one.
    pub symbol: Option<String>,
    /// Its fields.
    pub fields: crate::Object,
}

impl Host {
    /// Runs the plugin until it has said hello.
    ///
    /// # Errors
    /// What is wrong with the plugin's names, or that it does not say hello.
    pub async fn start(mut plugin: Plugin) -> Result<Self> {
        log::to_host("debug");
        let name = plugin.check()?;
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let address = format!("inproc://mangrove-testing-{}-{number}", std::process::id());
        let pair = Pair::with_options(SocketOptions {
            recv_max_size: 0,
            ..SocketOptions::default()
        });
        pair.listen(&address).await?;
        let endpoint = Endpoint {
            control: address.clone(),
            token: TOKEN.to_owned(),
            plugin: name,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { plugin.serve_native(endpoint, &CancellationToken::new()).await });
        let hello = within("the plugin's hello", async {
            match ToHost::decode(&pair.recv().await?)? {
                ToHost::Hello(hello) if hello.token == TOKEN => Ok(hello),
                other => Err(format!("expected hello; the plugin sent {other:?}").into()),
            }
        })
        .await?;
        let welcome = Welcome {
            version: VERSIONS.first().copied().unwrap_or_default(),
            host: "mangrove-testing".to_owned(),
            instance: 0,
            encoding: "json".to_owned(),
            limits: Limits::default(),
            ping_interval: 0,
        };
        pair.send(ToPlugin::Welcome(welcome).encode()).await?;
        let link = Arc::new(Link {
            pair,
            address,
            memory: Memory::default(),
            seen: Mutex::default(),
            changed: Notify::new(),
        });
        let reader = Arc::clone(&link);
        tasks.spawn(async move {
            reader.read().await;
            Ok(())
        });
        Ok(Self {
            link,
            plugin: tasks,
            hello,
        })
    }

    /// The names of the plugin's sources, sinks and functions, as it has told them.
    pub fn symbols(&self) -> [Vec<String>; 3] {
        let symbols = &self.hello.symbols;
        [
            symbols.sources.iter().map(ToString::to_string).collect(),
            symbols.sinks.iter().map(ToString::to_string).collect(),
            symbols
                .functions
                .iter()
                .map(|function| function.name.to_string())
                .collect(),
        ]
    }

    /// A source that is to be started.
    pub fn source(&self, symbol: &str) -> SourceStart {
        SourceStart::new(Arc::clone(&self.link), symbol)
    }

    /// A sink that is to be started.
    pub fn sink(&self, symbol: &str) -> SinkStart {
        SinkStart::new(Arc::clone(&self.link), symbol)
    }

    /// A function that is to be started.
    pub fn function(&self, symbol: &str) -> FunctionStart {
        FunctionStart::new(Arc::clone(&self.link), symbol)
    }

    /// What is kept for a symbol and a rule: to be looked at, and to be set before a symbol starts.
    pub fn state(&self, symbol: &str, rule: &str) -> State {
        State::new(MemoryStore {
            memory: self.link.memory.clone(),
            scope: Scope {
                symbol: symbol.to_owned(),
                rule: rule.to_owned(),
            },
        })
    }

    /// A figure of a symbol: the sum of a counter, the newest value of a gauge. All is told when the symbol is stopped,
    /// and once a second before.
    pub fn metric(&self, symbol: &str, name: &str) -> Option<f64> {
        let key = (symbol.to_owned(), name.to_owned());
        self.link.seen().metrics.get(&key).copied()
    }

    /// What was logged so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.link.seen().logs.clone()
    }

    /// The first line of the log that contains `text`, once there is one.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn logged(&self, text: &str) -> Result<LogLine> {
        self.link
            .wait(&format!("a log line with {text:?}"), |seen| {
                seen.logs.iter().find(|line| line.message.contains(text)).cloned()
            })
            .await
    }

    /// The errors that symbols have told of, other than sources: with the symbol's name.
    pub fn errors(&self) -> Vec<(String, String)> {
        self.link.seen().errors.clone()
    }

    /// Asks the plugin to end, as a host does, and waits until all of it has ended.
    ///
    /// # Errors
    /// It ends with an error, or not in time.
    pub async fn stop(mut self) -> Result {
        let shutdown = Shutdown {
            timeout: Duration::from_secs(5).as_millis() as u64,
        };
        self.link.send(ToPlugin::Shutdown(shutdown)).await?;
        within("the plugin's end", async {
            match self.plugin.join_next().await {
                Some(ended) => Ok(ended??),
                None => Ok(()),
            }
        })
        .await?;
        self.link.pair.close().await;
        Ok(())
    }
}

/// The host's side of the control channel.
#[derive(Debug)]
pub(super) struct Link {
    pair: Pair,
    address: String,
    memory: Memory,
    seen: Mutex<Seen>,
    /// Told whenever `seen` has changed.
    changed: Notify,
}

/// What the plugin has said.
#[derive(Debug, Default)]
pub(super) struct Seen {
    newest_request: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    newest_use: UseNumber,
    uses: HashMap<UseNumber, (String, String)>,
    pub(super) acks: HashMap<UseNumber, Vec<Ack>>,
    logs: Vec<LogLine>,
    errors: Vec<(String, String)>,
    metrics: BTreeMap<(String, String), f64>,
}

impl Link {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for one more use, and the address of its data channel.
    pub(super) fn new_use(&self, symbol: &str, rule: &str) -> (UseNumber, String) {
        let mut seen = self.seen();
        seen.newest_use += 1;
        let number = seen.newest_use;
        seen.uses.insert(number, (symbol.to_owned(), rule.to_owned()));
        (number, format!("{}-{number}", self.address))
    }

    pub(super) async fn send(&self, message: ToPlugin) -> Result {
        let sending = async { Ok(self.pair.send(message.encode()).await?) };
        within("sending to the plugin", sending).await
    }

    /// Sends a request and waits for its answer; an error of the plugin's is this one's.
    pub(super) async fn request(&self, request: impl FnOnce(u64) -> ToPlugin) -> Result<Value> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut seen = self.seen();
            seen.newest_request += 1;
            let id = seen.newest_request;
            seen.waiting.insert(id, sender);
            id
        };
        self.send(request(id)).await?;
        within("the plugin's answer", async { Ok(answer.await??) }).await
    }

    /// Waits until `find` finds something in what was seen.
    pub(super) async fn wait<T>(&self, what: &str, find: impl Fn(&mut Seen) -> Option<T>) -> Result<T> {
        within(what, async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = find(&mut self.seen()) {
                    return Ok(found);
                }
                changed.await;
            }
        })
        .await
    }

    async fn read(&self) {
        while let Ok(message) = self.pair.recv().await {
            match ToHost::decode(&message) {
                Ok(ToHost::State(id, request)) => {
                    let outcome = self.keep(request);
                    let answer = ToPlugin::Answer(Answer { id, outcome });
                    if self.pair.send(answer.encode()).await.is_err() {
                        return;
                    }
                }
                Ok(ToHost::Ping(id)) => {
                    let outcome = Ok(Value::Null);
                    let answer = ToPlugin::Answer(Answer { id, outcome });
                    if self.pair.send(answer.encode()).await.is_err() {
                        return;
                    }
                }
                Ok(message) => self.see(message),
                Err(error) => self.seen().errors.push(("".to_owned(), error.to_string())),
            }
            self.changed.notify_waiters();
        }
    }

    fn keep(&self, request: StateRequest) -> Result<Value, String> {
        let scope = {
            let seen = self.seen();
            let (symbol, rule) = seen
                .uses
                .get(&request.number)
                .ok_or_else(|| format!("there is no use {}", request.number))?;
            Scope {
                symbol: symbol.clone(),
                rule: request.rule.map_or_else(|| rule.clone(), |rule| rule.to_string()),
            }
        };
        self.memory.request(&scope, &request.key, request.operation)
    }

    fn see(&self, message: ToHost) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let symbol = |number: UseNumber| seen.uses.get(&number).map(|(symbol, _)| symbol.clone());
        match message {
            ToHost::Answer(Answer { id, outcome }) => {
                if let Some(waiting) = seen.waiting.remove(&id) {
                    // The test may have given up.
                    let _ = waiting.send(outcome);
                }
            }
            ToHost::Ack(ack) => seen.acks.entry(ack.number).or_default().push(ack),
            ToHost::Error(note) => {
                let symbol = symbol(note.number).unwrap_or_default();
                seen.errors.push((symbol, note.error));
            }
            ToHost::Log(line) => {
                let line = LogLine {
                    symbol: line.number.and_then(symbol),
                    ..LogLine::from(line)
                };
                seen.logs.push(line);
            }
            ToHost::Metric(metric) => {
                let key = (symbol(metric.number).unwrap_or_default(), metric.name);
                let value = seen.metrics.entry(key).or_default();
                *value = match metric.kind {
                    MetricKind::Counter => *value + metric.value,
                    MetricKind::Gauge => metric.value,
                };
            }
            ToHost::Hello(_) | ToHost::State(..) | ToHost::Ping(_) | ToHost::Unknown(_) => {}
        }
    }
}

impl From<Log> for LogLine {
    fn from(line: Log) -> Self {
        Self {
            level: match line.level {
                Level::Trace => "trace",
                Level::Debug => "debug",
                Level::Info => "info",
                Level::Warn => "warn",
                Level::Error => "error",
            },
            message: line.message,
            symbol: None,
            fields: line.fields,
        }
    }
}

/// A hang becomes an error that says what did not happen.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(LIMIT, future).await {
        Ok(result) => result,
        Err(_) => Err(format!("{what} did not come within {LIMIT:?}").into()),
    }
}
