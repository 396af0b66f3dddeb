//! Owns the channel of one function symbol: one task per symbol, shared by all rules. The roles are turned
//! around, and one call is outstanding at a time; callers queue up in a bounded line, each with its own
//! deadline. Started and ended by the plugin's worker.

mod task;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::control::Validate;
use serde_json::Value;
use sp_proto::{Message, PipeId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::error::{CallError, OpenError};
use super::native::link::{Link, Reply};
use super::record::Record;
use super::turn::{self, Turn};
use super::users::User;
use super::worker::{Remote, Request};
pub(super) use task::Task;

/// Calls that may wait in line.
const LINE: usize = 256;

/// A call on its way to the task.
struct Call {
    message: Vec<u8>,
    /// Closed when the caller has given up.
    reply: oneshot::Sender<Answer>,
}

/// What has come of a call.
enum Answer {
    Message(Message),
    /// The connection broke.
    Broken,
    /// It was not sent: the process that runs the function now speaks our own contract.
    Elsewhere,
}

/// What callers and the worker see of the channel.
#[derive(Debug)]
struct Standing {
    turn: AtomicU8,
    /// The process whose turn it is; 0: nobody's, or one that the system does not name.
    process: AtomicU32,
    /// A call was given up for lack of an answer, and has not been answered since.
    overdue: AtomicBool,
    /// Tells the worker that one of these has changed.
    changed: Arc<Notify>,
}

const ABSENT: u8 = 0;
const FREE: u8 = 1;
const BUSY: u8 = 2;
const LATE: u8 = 3;

impl Standing {
    fn note(&self, turn: &Turn<PipeId>, process: u32) {
        let word = match turn.standing() {
            None => ABSENT,
            Some(turn::Standing::Ready(_)) => FREE,
            Some(turn::Standing::Busy(_)) => BUSY,
            Some(turn::Standing::Late(_)) => LATE,
        };
        self.turn.store(word, Ordering::Relaxed);
        let other = self.process.swap(process, Ordering::Relaxed) != process;
        let answered = matches!(word, ABSENT | FREE) && self.overdue.swap(false, Ordering::Relaxed);
        if other || answered {
            self.changed.notify_one();
        }
    }

    /// A caller has waited in vain.
    fn note_overdue(&self) {
        if matches!(self.turn.load(Ordering::Relaxed), BUSY | LATE) {
            self.overdue.store(true, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    fn describe(&self) -> &'static str {
        match self.turn.load(Ordering::Relaxed) {
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
    /// The channel of our own contract, when the process speaks that.
    link: watch::Receiver<Option<Arc<Link>>>,
}

/// The worker's end of a channel.
pub(super) struct Channel {
    line: Line,
    favoured: watch::Sender<Option<u32>>,
    link: watch::Sender<Option<Arc<Link>>>,
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

    /// Puts calls into this link from now on; without one, into the channel of the other contract.
    pub(super) fn serve(&self, link: Option<Arc<Link>>) {
        self.link.send_replace(link);
    }

    /// The process whose turn it is.
    pub(super) fn process(&self) -> Option<u32> {
        Some(self.line.standing.process.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Whether a call was given up that has not been answered since.
    pub(super) fn is_overdue(&self) -> bool {
        self.line.standing.overdue.load(Ordering::Relaxed)
    }

    /// Lets this process and its descendants serve, however new the connections of others are; `None`: whoever
    /// has connected last. A call that is under way is answered by whom it was given to.
    pub(super) fn favour(&self, process: Option<u32>) {
        self.favoured.send_replace(process);
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// A function of a plugin, as one rule uses it. Cheap to clone.
#[derive(Clone)]
pub struct Function {
    name: SymbolName,
    line: Line,
    remote: Remote,
    record: Arc<Record>,
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
            record: remote.records.of(SymbolKind::Function, &name),
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
        if let Some(link) = self.link().await? {
            return self.validate_native(&link, args).await;
        }
        let call = FunctionCall::Validate(args);
        match self.call(&call).await? {
            Some(FunctionReply::Result(_)) => Ok(()),
            Some(FunctionReply::Nothing) => Err(CallError::Plugin(
                "the function does not take its arguments".to_owned(),
            )),
            Some(FunctionReply::Error(text)) => Err(CallError::Plugin(text)),
            // Whoever asks during an update may ask again.
            None => Err(self.disconnected()),
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
        if let Some(link) = self.link().await? {
            return Ok(link.is_aggregate());
        }
        match self.call(&FunctionCall::IsAggregate).await? {
            Some(FunctionReply::Result(Value::Bool(answer))) => Ok(answer),
            Some(FunctionReply::Result(other)) => {
                let text = format!(
                    "the function answers {other} when asked whether it aggregates; expected true or false"
                );
                Err(CallError::Plugin(text))
            }
            Some(FunctionReply::Nothing) => Ok(false),
            Some(FunctionReply::Error(text)) => Err(CallError::Plugin(text)),
            None => Err(self.disconnected()),
        }
    }

    /// Calls the function. `None`: no result and no error. Any number of calls may be under way at the same time; a
    /// plugin of our own contract works at all of them, one of the other at one after the other.
    ///
    /// # Errors
    /// Its own error, no answer within the time limit, garbage, a broken connection. Whatever it was, the
    /// next call gets its own answer.
    ///
    /// # Cancel safety
    /// As [`Function::validate`]; the function may or may not have been called.
    pub async fn exec(
        &self,
        args: Vec<Value>,
        context: impl Into<Arc<FunctionContext>>,
    ) -> Result<Option<Value>, CallError> {
        let (mut args, context) = (args, context.into());
        loop {
            let unsent = match self.exec_native(args, &context).await {
                Ok(outcome) => {
                    self.record.note_call(&outcome);
                    return outcome.map(Some);
                }
                Err(args) => args,
            };
            let context = FunctionContext::clone(&context);
            let call = FunctionCall::Exec {
                args: unsent,
                context,
            };
            match self.call(&call).await? {
                Some(FunctionReply::Result(result)) => return Ok(Some(result)),
                Some(FunctionReply::Nothing) => return Ok(None),
                Some(FunctionReply::Error(text)) => return Err(CallError::Plugin(text)),
                None => {}
            }
            let FunctionCall::Exec { args: again, .. } = call else {
                return Ok(None);
            };
            args = again;
        }
    }

    /// The channel of our own contract; `None` when the process speaks the other one.
    async fn link(&self) -> Result<Option<Arc<Link>>, CallError> {
        let mut link = self.line.link.clone();
        let limit = self.remote.settings.call_timeout;
        // Between two processes nobody knows what the next one will speak.
        let ready = link.wait_for(|link| link.as_ref().is_none_or(|link| link.is_open()));
        match tokio::time::timeout(limit, ready).await {
            Ok(Ok(link)) => Ok(link.clone()),
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// The arguments come back when the process speaks the other contract.
    async fn exec_native(
        &self,
        args: Vec<Value>,
        context: &Arc<FunctionContext>,
    ) -> Result<Result<Value, CallError>, Vec<Value>> {
        let now = self.line.link.borrow().clone();
        if now.is_none() {
            return Err(args);
        }
        let limit = self.remote.settings.call_timeout;
        match tokio::time::timeout(limit, self.exec_linked(now, args, context)).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(Err(self.timed_out())),
        }
    }

    async fn exec_linked(
        &self,
        mut link: Option<Arc<Link>>,
        mut args: Vec<Value>,
        context: &Arc<FunctionContext>,
    ) -> Result<Result<Value, CallError>, Vec<Value>> {
        loop {
            let Some(open) = link else { return Err(args) };
            if open.is_open() {
                match open.call(args, Arc::clone(context)).await {
                    Reply::Result(result) => return Ok(Ok(result)),
                    Reply::Error(text) => return Ok(Err(CallError::Plugin(text))),
                    Reply::Broken => return Ok(Err(self.disconnected())),
                    // For the next process.
                    Reply::NotSent(unsent) => args = unsent,
                }
            }
            link = match self.link().await {
                Ok(link) => link,
                Err(error) => return Ok(Err(error)),
            };
        }
    }

    async fn validate_native(&self, link: &Link, args: Vec<Value>) -> Result<(), CallError> {
        let request = Validate {
            symbol: self.name.clone(),
            args,
        };
        let limit = self.remote.settings.call_timeout;
        match tokio::time::timeout(limit, link.validate(request)).await {
            Ok(Some(outcome)) => outcome.map_err(CallError::Plugin),
            Ok(None) => Err(self.disconnected()),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> CallError {
        CallError::TimedOut {
            function: self.name.to_string(),
            plugin: self.remote.plugin.clone(),
            limit: self.remote.settings.call_timeout,
            channel: match &*self.line.link.borrow() {
                Some(link) if link.is_open() => "it is connected",
                Some(_) => "it is not connected",
                None => self.line.standing.describe(),
            },
            status: self.remote.status.borrow().to_string(),
        }
    }

    fn disconnected(&self) -> CallError {
        CallError::Disconnected {
            function: self.name.to_string(),
            plugin: self.remote.plugin.clone(),
            status: self.remote.status.borrow().to_string(),
        }
    }

    fn ended(&self) -> CallError {
        CallError::Ended {
            function: self.name.to_string(),
            plugin: self.remote.plugin.clone(),
            status: self.remote.status.borrow().to_string(),
        }
    }

    /// `None`: it was not sent, because the process that runs the function now speaks our own contract.
    async fn call(&self, call: &FunctionCall) -> Result<Option<FunctionReply>, CallError> {
        let outcome = self.ask(call).await;
        match &outcome {
            Ok(None) => {}
            Ok(Some(FunctionReply::Error(text))) => self.record.note_error(text),
            outcome => self.record.note_call(outcome),
        }
        outcome
    }

    async fn ask(&self, call: &FunctionCall) -> Result<Option<FunctionReply>, CallError> {
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
        match outcome {
            Ok(Some(Answer::Message(message))) => Ok(Some(FunctionReply::decode(&message)?)),
            Ok(Some(Answer::Broken)) => Err(self.disconnected()),
            Ok(Some(Answer::Elsewhere)) => Ok(None),
            Ok(None) => Err(self.ended()),
            Err(_) => {
                let error = self.timed_out();
                self.line.standing.note_overdue();
                Err(error)
            }
        }
    }
}
