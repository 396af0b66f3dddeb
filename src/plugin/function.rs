//! Owns a function as a rule uses it: puts its calls in the line of the symbol's channel, each with its own
//! deadline, and reads the answers.

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::control::Validate;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::calls::{Answer, Call, Line};
use super::error::{CallError, OpenError};
use super::instances::Links;
use super::native::link::{Link, Reply};
use super::record::Record;
use super::remote::{Remote, Request};
use super::users::User;

/// How many calls belong together where a function takes more than one at a time.
const TOGETHER: usize = 256;

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
        let user = Arc::new(remote.users.enter_function(rule, &name));
        // The others start it on their own.
        remote.instances.want_function(&name);
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
        let outcomes = self.exec_many(vec![args], &context.into()).await;
        outcomes.into_iter().next().unwrap_or(Ok(None))
    }

    /// How many calls of one rule the function takes at once: so many belong into one
    /// [`exec_many`](Self::exec_many). Another version of the plugin may take more, or fewer.
    pub fn concurrency(&self) -> usize {
        match *self.line.links.borrow() {
            Some(_) => TOGETHER,
            None => 1,
        }
    }

    /// Makes many calls for one call site; the outcomes are in their order.
    ///
    /// # Cancel safety
    /// As [`Function::validate`]; the function may or may not have been called.
    pub async fn exec_many(
        &self,
        mut calls: Vec<Vec<Value>>,
        context: &Arc<FunctionContext>,
    ) -> Vec<Result<Option<Value>, CallError>> {
        let mut outcomes: Vec<_> = calls.iter().map(|_| Ok(None)).collect();
        // The places of the calls that were not sent.
        let mut open: Vec<usize> = (0..calls.len()).collect();
        while !open.is_empty() {
            let linked = self.line.links.borrow().is_some();
            if linked {
                open = self.exec_linked(&calls, open, context, &mut outcomes).await;
            }
            // One after the other, as long as the process speaks the other contract.
            let mut unsent = Vec::new();
            for place in open {
                let args = std::mem::take(&mut calls[place]);
                match self.exec_alone(args, context).await {
                    Ok(outcome) => outcomes[place] = outcome,
                    Err(args) => {
                        calls[place] = args;
                        unsent.push(place);
                    }
                }
            }
            open = unsent;
        }
        outcomes
    }

    /// A channel of our own contract; `None` when the process speaks the other one.
    async fn link(&self) -> Result<Option<Arc<Link>>, CallError> {
        loop {
            let Some(links) = self.links().await? else {
                return Ok(None);
            };
            if let Some(link) = links.choose() {
                return Ok(Some(Arc::clone(link)));
            }
        }
    }

    /// The channels of our own contract, at least one of them open; `None` when the process speaks the other one.
    async fn links(&self) -> Result<Option<Links>, CallError> {
        let mut links = self.line.links.clone();
        let limit = self.remote.settings.call_timeout;
        // Between two processes nobody knows what the next one will speak.
        let ready = links.wait_for(|links| links.as_ref().is_none_or(Links::are_open));
        match tokio::time::timeout(limit, ready).await {
            Ok(Ok(links)) => Ok(links.clone()),
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Over our own contract those of the calls that are open. Those stay so for which there is only a process that
    /// speaks the other one.
    async fn exec_linked(
        &self,
        calls: &[Vec<Value>],
        mut open: Vec<usize>,
        context: &Arc<FunctionContext>,
        outcomes: &mut [Result<Option<Value>, CallError>],
    ) -> Vec<usize> {
        let deadline = Instant::now() + self.remote.settings.call_timeout;
        let mut links = self.line.links.borrow().clone();
        let mut is_fine = false;
        while let Some(served) = links {
            let hands = match served.deal(open) {
                Ok(hands) => {
                    open = Vec::new();
                    hands
                }
                Err(places) => {
                    open = places;
                    Vec::new()
                }
            };
            let made = hands.into_iter().map(async |(link, places)| {
                let calls = places.iter().map(|place| calls[*place].as_slice());
                let replies = link.call(calls, Arc::clone(context), deadline).await;
                places.into_iter().zip(replies)
            });
            for replies in join_all(made).await {
                for (place, reply) in replies {
                    let outcome = match reply {
                        Reply::Result(result) => Ok(Some(result)),
                        Reply::Error(text) => Err(CallError::Plugin(text)),
                        Reply::Broken => Err(self.disconnected()),
                        Reply::GivenUp => Err(self.timed_out()),
                        // For the next process.
                        Reply::NotSent => {
                            open.push(place);
                            continue;
                        }
                    };
                    match &outcome {
                        Ok(_) => is_fine = true,
                        Err(error) => self.record.note_error(&error.to_string()),
                    }
                    outcomes[place] = outcome;
                }
            }
            if open.is_empty() {
                break;
            }
            links = match tokio::time::timeout_at(deadline, self.links()).await {
                Ok(Ok(links)) => links,
                missing => {
                    let is_late = missing.is_err();
                    for place in open.drain(..) {
                        let error = if is_late { self.timed_out() } else { self.ended() };
                        self.record.note_error(&error.to_string());
                        outcomes[place] = Err(error);
                    }
                    break;
                }
            };
        }
        if is_fine {
            self.record.note_ok();
        }
        open
    }

    /// Over the other contract. The arguments come back when the process speaks our own.
    async fn exec_alone(
        &self,
        args: Vec<Value>,
        context: &FunctionContext,
    ) -> Result<Result<Option<Value>, CallError>, Vec<Value>> {
        let call = FunctionCall::Exec {
            args,
            context: context.clone(),
        };
        match self.call(&call).await {
            Ok(Some(FunctionReply::Result(result))) => Ok(Ok(Some(result))),
            Ok(Some(FunctionReply::Nothing)) => Ok(Ok(None)),
            Ok(Some(FunctionReply::Error(text))) => Ok(Err(CallError::Plugin(text))),
            Ok(None) => match call {
                FunctionCall::Exec { args, .. } => Err(args),
                FunctionCall::Validate(_) | FunctionCall::IsAggregate => Ok(Ok(None)),
            },
            Err(error) => Ok(Err(error)),
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
            channel: match &*self.line.links.borrow() {
                Some(links) if links.are_open() => "it is connected",
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
