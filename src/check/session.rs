//! Owns one process of the plugin and the host's side of its control channel. Decides nothing about what is good:
//! the behaviours do, and drive it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native;
use mangrove_protocol::native::control::{Place, Role, Start, Stop, ToPlugin, Validate};
use mangrove_protocol::native::opening::{Hello, Limits, Refused, Welcome};
use mangrove_protocol::native::{
    CONTROL_VARIABLE, INSTANCE_VARIABLE, PLUGIN_VARIABLE, TOKEN_VARIABLE, UseNumber,
};
use serde_json::Value;
use sp_proto::{Connection, Listener, ListenerOptions, Pair, Protocol, SocketOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::behaviour::{Flaw, Verdict};
use super::desk::{Board, Desk, Ledger, UseRecord};
use crate::config::Portable;
use crate::plugin::{Candidate, End, Trial};

/// The time limit that is told with `stop` and `shutdown`.
pub(super) const STOP: Duration = Duration::from_secs(10);

/// The longest message that the plugin is told to accept.
pub(super) const LONGEST: usize = 32 << 20;

/// A process, and its control channel once that is open.
pub(super) struct Session {
    trial: Trial,
    listener: Listener,
    token: String,
    ledger: Arc<Ledger>,
    desk: Arc<Desk>,
    control: Option<Pair>,
    /// Holds the task of the control channel.
    tasks: JoinSet<()>,
    limits: Limits,
    patience: Duration,
    scratch: TempDir,
    next: AtomicU64,
}

/// How to begin one.
pub(super) struct Entry<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) settings: &'a Portable,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) patience: Duration,
}

/// The options of every socket of the kit.
pub(super) fn options() -> SocketOptions {
    SocketOptions {
        recv_max_size: LONGEST,
        // What a behaviour sends at once, it wants to have sent.
        send_queue_bytes: 2 * LONGEST,
        linger: Duration::ZERO,
        ..Default::default()
    }
}

impl Session {
    /// Starts a process. It has not said hello yet.
    pub(super) async fn launch(entry: Entry<'_>) -> Verdict<Self> {
        let scratch = tempfile::Builder::new().prefix("mangrove-check-").tempdir();
        let scratch = scratch.map_err(Flaw::broken)?;
        let address = format!("ipc://{}", scratch.path().join("control.ipc").display());
        let listener_options = ListenerOptions {
            recv_max_size: LONGEST,
            ..Default::default()
        };
        let listener = Listener::bind(&address, &[Protocol::Pair0], listener_options).await;
        let listener = listener.map_err(Flaw::broken)?;
        let token = format!("{:032x}", fastrand::u128(..));
        let variables = BTreeMap::from([
            (CONTROL_VARIABLE.to_owned(), address),
            (TOKEN_VARIABLE.to_owned(), token.clone()),
            (INSTANCE_VARIABLE.to_owned(), "0".to_owned()),
            (
                PLUGIN_VARIABLE.to_owned(),
                entry.candidate.manifest().name.to_string(),
            ),
        ]);
        let trial = entry.candidate.start(entry.settings, variables).await;
        let ledger = Arc::clone(entry.ledger);
        Ok(Self {
            trial: trial.map_err(Flaw::broken)?,
            listener,
            token,
            desk: Arc::new(Desk::new(Arc::clone(&ledger))),
            ledger,
            control: None,
            tasks: JoinSet::new(),
            limits: Limits::default(),
            patience: entry.patience,
            scratch,
            next: AtomicU64::new(1),
        })
    }

    /// Awaits the plugin's connection and its hello, the first or the next one.
    pub(super) async fn hello(&mut self) -> Verdict<Hello> {
        let connection = self.within("its connection", self.listener.accept()).await?;
        self.greet(connection.map_err(Flaw::broken)?).await
    }

    async fn greet(&mut self, connection: Connection) -> Verdict<Hello> {
        let control = Pair::with_options(options());
        control.attach(connection).map_err(Flaw::broken)?;
        self.tasks.abort_all();
        self.desk = Arc::new(Desk::new(Arc::clone(&self.ledger)));
        let (desk, socket) = (Arc::clone(&self.desk), control.clone());
        self.tasks.spawn(async move { desk.serve(socket).await });
        self.control = Some(control);
        self.until("its hello", |board| board.hello.clone()).await
    }

    /// Takes the plugin.
    pub(super) async fn welcome(&mut self, limits: Limits) -> Verdict {
        self.limits = limits;
        let welcome = Welcome {
            version: native::VERSIONS[0],
            host: format!("mangrove/{}", env!("CARGO_PKG_VERSION")),
            instance: 0,
            encoding: "json".to_owned(),
            limits,
            ping_interval: 10_000,
        };
        self.send(ToPlugin::Welcome(welcome).encode()).await
    }

    /// Does not take the plugin, and closes the connection.
    pub(super) async fn refuse(&mut self, reason: &str) -> Verdict {
        let refused = Refused {
            reason: reason.to_owned(),
            versions: native::VERSIONS.to_vec(),
        };
        self.send(ToPlugin::Refused(refused).encode()).await
    }

    /// Breaks the control connection.
    pub(super) async fn disconnect(&mut self) {
        self.tasks.shutdown().await;
        if let Some(control) = self.control.take() {
            control.close().await;
        }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// How long anything may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn trial(&self) -> &Trial {
        &self.trial
    }

    pub(super) fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.desk.board()
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// A number that was not used before in this session, for requests and uses alike.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for `what`, but not for ever, and not for a process that is gone.
    pub(super) async fn within<T>(&self, what: impl Display, future: impl Future<Output = T>) -> Verdict<T> {
        tokio::select! {
            biased;
            done = timeout(self.patience, future) => {
                done.map_err(|_| Flaw::failed(format!("{what} did not come within {} s", self.patience.as_secs())))
            }
            _ = self.trial.ended() => {
                let words = self.trial.last_words().map(|words| format!("; it said last: {words}"));
                let words = words.unwrap_or_default();
                Err(Flaw::failed(format!("its process ended before {what} came{words}")))
            }
        }
    }

    /// Waits until the board shows something.
    pub(super) async fn until<T>(
        &self,
        what: impl Display,
        look: impl FnMut(&mut Board) -> Option<T>,
    ) -> Verdict<T> {
        self.within(what, self.desk.until(look)).await
    }

    /// Sends anything on the control channel.
    pub(super) async fn send(&self, message: Vec<u8>) -> Verdict {
        let control = self
            .control
            .as_ref()
            .ok_or_else(|| Flaw::failed("there is no control channel"))?;
        let sent = self
            .within("room on the control channel", control.send(message))
            .await?;
        sent.map_err(Flaw::broken)
    }

    /// Makes a request; the answer is for [`Session::answer`].
    pub(super) async fn request(&self, id: u64, message: Vec<u8>) -> Verdict {
        self.board().open.insert(id);
        self.send(message).await
    }

    /// The answer to a request.
    pub(super) async fn answer(&self, id: u64, what: impl Display) -> Verdict<Result<Value, String>> {
        let what = format!("the answer to {what}");
        self.until(what, |board| board.answers.get(&id).cloned()).await
    }

    pub(super) async fn ping(&self) -> Verdict {
        let id = self.number();
        self.request(id, ToPlugin::Ping(id).encode()).await?;
        let answer = self.answer(id, "a ping").await?;
        answer
            .map(drop)
            .map_err(|error| Flaw::failed(format!("it answers a ping with the error {error:?}")))
    }

    pub(super) async fn validate(
        &self,
        symbol: &SymbolName,
        args: &[Value],
    ) -> Verdict<Result<Value, String>> {
        let id = self.number();
        let validate = Validate {
            symbol: symbol.clone(),
            args: args.to_vec(),
        };
        self.request(id, ToPlugin::Validate(id, validate).encode())
            .await?;
        self.answer(id, format!("validate of {symbol}")).await
    }

    /// A fresh address for a data channel.
    pub(super) fn address(&self, number: UseNumber) -> String {
        format!(
            "ipc://{}",
            self.scratch.path().join(format!("{number}.ipc")).display()
        )
    }

    /// Asks for the start of a symbol.
    pub(super) async fn start(
        &self,
        number: UseNumber,
        symbol: &SymbolName,
        role: Role,
        address: &str,
    ) -> Verdict<Result<Value, String>> {
        let ack = matches!(role, Role::Sink { ack: true, .. });
        let record = UseRecord {
            symbol: symbol.to_string(),
            rule: (role != Role::Function).then(|| place().rule_id.to_string()),
            ack,
            sent: Vec::new(),
            acked: 0,
        };
        self.board().uses.insert(number, record);
        let id = self.number();
        let start = Start {
            number,
            symbol: symbol.clone(),
            role,
            address: address.to_owned(),
        };
        self.request(id, ToPlugin::Start(id, Box::new(start)).encode())
            .await?;
        self.answer(id, format!("start of {symbol}")).await
    }

    /// Asks for the end of a symbol; the answer is for [`Session::answer`].
    pub(super) async fn stop(&self, number: UseNumber, seq: Option<u64>) -> Verdict<u64> {
        let id = self.number();
        let stop = Stop {
            number,
            timeout: milliseconds(STOP),
            seq,
        };
        self.request(id, ToPlugin::Stop(id, stop).encode()).await?;
        Ok(id)
    }

    /// Awaits the end of the process, which `what` led to.
    pub(super) async fn ended(self, what: &str) -> Verdict<End> {
        match timeout(self.patience, self.trial.ended()).await {
            Ok(_) => {
                // What it has sent is read to its end.
                let closed = self.desk.until(|board| board.closed.then_some(()));
                let _still_open = timeout(self.patience, closed).await;
                Ok(self.trial.reap().await)
            }
            Err(_) => Err(Flaw::failed(format!(
                "its process did not end within {} s after {what}",
                self.patience.as_secs()
            ))),
        }
    }
}

/// For whom sources and sinks are started.
pub(super) fn place() -> Place {
    Place {
        rule_id: name("check"),
        op_id: name("demo"),
        instance_id: 0,
    }
}

/// A name of our own.
pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
