//! Owns the channel of one function symbol: one task per symbol, shared by all rules. The roles are turned
//! around, and one call is outstanding at a time; callers queue up in a bounded line, each with its own
//! deadline. Started and ended by the plugin's worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mangrove_protocol::address;
use mangrove_protocol::control;
use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_protocol::name::{PluginName, SymbolName};
use serde_json::Value;
use sp_proto::{Events, Message, PipeId, Rep, SocketOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{CallError, OpenError};
use super::turn::{Heard, Turn};
use super::users::User;
use super::worker::{Remote, Request};

/// Calls that may wait in line.
const LINE: usize = 256;

/// How long a function may be without a connection before it is started again. Dialers come back within this
/// time.
const RECONNECT: Duration = Duration::from_secs(3);

/// A call on its way to the task.
struct Call {
    message: Vec<u8>,
    /// Closed when the caller has given up. Answered with `None` when the connection broke.
    reply: oneshot::Sender<Option<Message>>,
}

/// What a caller sees of the channel when its call fails.
#[derive(Debug, Default)]
struct Standing(AtomicU8);

const ABSENT: u8 = 0;
const FREE: u8 = 1;
const BUSY: u8 = 2;
const LATE: u8 = 3;

impl Standing {
    fn note(&self, turn: Turn<PipeId>) {
        let word = match turn {
            Turn::Absent => ABSENT,
            Turn::Ready(..) => FREE,
            Turn::Busy(..) => BUSY,
            Turn::Late(..) => LATE,
        };
        self.0.store(word, Ordering::Relaxed);
    }

    fn describe(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            ABSENT => "it is not connected",
            LATE => "it is still at an earlier call that was given up",
            _ => "it is connected",
        }
    }
}

/// Where calls are put in. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Line {
    calls: mpsc::Sender<Call>,
    standing: Arc<Standing>,
}

/// The worker's end of a channel.
pub(super) struct Channel {
    line: Line,
    stop: CancellationToken,
}

impl Channel {
    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    /// Whether anybody besides the worker can call.
    pub(super) fn is_used(&self) -> bool {
        self.line.calls.strong_count() > 1
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// The task that owns the channel's socket.
pub(super) struct Task {
    socket: Rep,
    events: Events,
    calls: mpsc::Receiver<Call>,
    silent: mpsc::Sender<SymbolName>,
    stop: CancellationToken,
    core: Core,
}

enum Wake {
    Stop,
    Message(sp_proto::Request),
    Pipe(sp_proto::Event),
    GivenUp,
    Call(Call),
    Silent,
}

impl Task {
    /// Listens, so that the plugin can dial as soon as it is told to start the symbol.
    pub(super) async fn listen(
        plugin: &PluginName,
        symbol: &SymbolName,
        options: SocketOptions,
        silent: mpsc::Sender<SymbolName>,
    ) -> Result<(Self, Channel), OpenError> {
        let address = address::function(symbol)?;
        let socket = Rep::with_options(options);
        let events = socket.events();
        socket.listen(&address).await?;
        let (sender, calls) = mpsc::channel(LINE);
        let standing = Arc::<Standing>::default();
        let stop = CancellationToken::new();
        let core = Core {
            plugin: plugin.clone(),
            symbol: symbol.clone(),
            turn: Turn::Absent,
            held: None,
            current: None,
            silent_at: None,
            standing: Arc::clone(&standing),
        };
        let channel = Channel {
            line: Line {
                calls: sender,
                standing,
            },
            stop: stop.clone(),
        };
        Ok((
            Self {
                socket,
                events,
                calls,
                silent,
                stop,
                core,
            },
            channel,
        ))
    }

    /// Runs until [`Channel::stop`].
    pub(super) async fn run(mut self) {
        let core = &mut self.core;
        loop {
            let idle = core.current.is_none();
            let wake = tokio::select! {
                () = self.stop.cancelled() => Wake::Stop,
                Ok(message) = self.socket.recv() => Wake::Message(message),
                Some(event) = self.events.recv() => Wake::Pipe(event),
                () = given_up(&mut core.current) => Wake::GivenUp,
                Some(call) = self.calls.recv(), if idle => Wake::Call(call),
                () = sleep_until(core.silent_at) => Wake::Silent,
            };
            match wake {
                Wake::Stop => break,
                Wake::Message(message) => core.handle_message(message),
                Wake::Pipe(event) => core.handle_pipe(event),
                Wake::GivenUp => core.handle_given_up(),
                Wake::Call(call) => core.current = Some(call),
                Wake::Silent => {
                    // When it has not come back by then, or the worker is too busy now, once more.
                    core.silent_at = Some(Instant::now() + RECONNECT);
                    let _ = self.silent.try_send(core.symbol.clone());
                }
            }
            core.send().await;
            core.standing.note(core.turn);
        }
        self.socket.close().await;
    }
}

/// What the task decides with.
struct Core {
    plugin: PluginName,
    symbol: SymbolName,
    turn: Turn<PipeId>,
    /// The newest message, which the next call replies to.
    held: Option<sp_proto::Request>,
    /// The call that waits for the host's turn, or for its answer.
    current: Option<Call>,
    /// When it has been without a connection for too long.
    silent_at: Option<Instant>,
    standing: Arc<Standing>,
}

impl Core {
    fn handle_message(&mut self, message: sp_proto::Request) {
        let keep_alive = control::Request::decode(message.body()) == control::Request::Handshake;
        let body = message.body().clone();
        let heard = self.turn.handle_message(message.pipe(), message.id(), keep_alive);
        if heard == Heard::Ignored {
            return;
        }
        self.silent_at = None;
        self.held = Some(message);
        match heard {
            Heard::Answer => self.answer(Some(body)),
            Heard::Lost => self.answer(None),
            Heard::Late => {
                tracing::debug!(plugin = %self.plugin, function = %self.symbol, "a late answer was dropped");
            }
            // The call that is still current is sent again.
            Heard::Again | Heard::Ready | Heard::Ignored => {}
        }
    }

    fn handle_pipe(&mut self, event: sp_proto::Event) {
        match event {
            sp_proto::Event::PipeRemoved { pipe, .. } => {
                let before = self.turn;
                if self.turn.handle_gone(pipe) {
                    self.answer(None);
                }
                if before != self.turn {
                    self.held = None;
                    self.silent_at = Some(Instant::now() + RECONNECT);
                }
            }
            sp_proto::Event::PeerRefused { peer_address, reason } => {
                let (plugin, function) = (&self.plugin, &self.symbol);
                tracing::warn!(%plugin, %function, "refused a connection of {peer_address}: {reason}");
            }
            _ => {}
        }
    }

    fn handle_given_up(&mut self) {
        self.current = None;
        self.turn.handle_abandoned();
    }

    fn answer(&mut self, answer: Option<Message>) {
        if let Some(call) = self.current.take() {
            // The caller may have given up in this very moment; the answer is its call's anyhow.
            let _ = call.reply.send(answer);
        }
    }

    /// Sends the current call when it is the host's turn.
    async fn send(&mut self) {
        if !self.turn.is_ready() {
            return;
        }
        let Some(call) = self.current.as_ref().filter(|call| !call.reply.is_closed()) else {
            return;
        };
        let Some(message) = self.held.take() else { return };
        let pipe = message.pipe();
        match message.reply(call.message.clone()).await {
            Ok(()) => self.turn.handle_sent(),
            // It never left, so it waits for the next connection.
            Err(_) => {
                self.turn.handle_gone(pipe);
                self.silent_at = Some(Instant::now() + RECONNECT);
            }
        }
    }
}

async fn given_up(current: &mut Option<Call>) {
    match current {
        Some(call) => call.reply.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A function of a plugin, as one rule uses it. Cheap to clone.
#[derive(Clone)]
pub struct Function {
    name: SymbolName,
    line: Line,
    remote: Remote,
    // Behind the line: the worker looks at the line when this is dropped.
    _user: Arc<User>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({}/{})", self.remote.plugin, self.name)
    }
}

impl Function {
    pub(super) async fn open(remote: Remote, name: SymbolName, rule: &str) -> Result<Self, OpenError> {
        let user = Arc::new(remote.users.enter(rule, None));
        let line = remote.ask(|reply| Request::Function(name.clone(), reply)).await;
        let line = line.ok_or(OpenError::Stopping)??;
        Ok(Self {
            name,
            line,
            remote,
            _user: user,
        })
    }

    /// Asks the function whether it takes these arguments. Column arguments are given as their SQL text.
    ///
    /// # Errors
    /// It does not take them ([`CallError::Plugin`], in its own words), or it cannot be asked.
    ///
    /// # Cancel safety
    /// May be dropped: the answer is then thrown away when it comes, and delays the calls behind it until
    /// then.
    pub async fn validate(&self, args: Vec<Value>) -> Result<(), CallError> {
        match self.call(&FunctionCall::Validate(args)).await? {
            FunctionReply::Result(_) => Ok(()),
            FunctionReply::Nothing => Err(CallError::Plugin(
                "the function does not take its arguments".to_owned(),
            )),
            FunctionReply::Error(text) => Err(CallError::Plugin(text)),
        }
    }

    /// Asks the function whether it works on groups.
    ///
    /// # Errors
    /// It cannot be asked, or does not answer with true or false.
    ///
    /// # Cancel safety
    /// As [`Function::validate`].
    pub async fn is_aggregate(&self) -> Result<bool, CallError> {
        match self.call(&FunctionCall::IsAggregate).await? {
            FunctionReply::Result(Value::Bool(answer)) => Ok(answer),
            FunctionReply::Result(other) => {
                let text = format!(
                    "the function answers {other} when asked whether it aggregates; expected true or false"
                );
                Err(CallError::Plugin(text))
            }
            FunctionReply::Nothing => Ok(false),
            FunctionReply::Error(text) => Err(CallError::Plugin(text)),
        }
    }

    /// Calls the function. `None`: no result and no error.
    ///
    /// # Errors
    /// Its own error, no answer within the time limit, garbage, a broken connection. Whatever it was, the
    /// next call gets its own answer.
    ///
    /// # Cancel safety
    /// As [`Function::validate`]; the function may or may not have been called.
    pub async fn exec(&self, args: Vec<Value>, context: FunctionContext) -> Result<Option<Value>, CallError> {
        match self.call(&FunctionCall::Exec { args, context }).await? {
            FunctionReply::Result(result) => Ok(Some(result)),
            FunctionReply::Nothing => Ok(None),
            FunctionReply::Error(text) => Err(CallError::Plugin(text)),
        }
    }

    async fn call(&self, call: &FunctionCall) -> Result<FunctionReply, CallError> {
        let limit = self.remote.settings.call_timeout;
        let (reply, answer) = oneshot::channel();
        let call = Call {
            message: call.encode(),
            reply,
        };
        let outcome = tokio::time::timeout(limit, async {
            self.line.calls.send(call).await.ok()?;
            answer.await.ok()
        })
        .await;
        let (function, plugin) = (self.name.to_string(), self.remote.plugin.clone());
        let status = || self.remote.status.borrow().to_string();
        match outcome {
            Ok(Some(Some(message))) => Ok(FunctionReply::decode(&message)?),
            Ok(Some(None)) => Err(CallError::Disconnected {
                function,
                plugin,
                status: status(),
            }),
            Ok(None) => Err(CallError::Ended {
                function,
                plugin,
                status: status(),
            }),
            Err(_) => {
                let channel = self.line.standing.describe();
                Err(CallError::TimedOut {
                    function,
                    plugin,
                    limit,
                    channel,
                    status: status(),
                })
            }
        }
    }
}
