//! Owns a function as a rule uses it: puts its calls in the line of the symbol's channel, each with its own
//! deadline, and reads the answers.

use std::fmt;
use std::sync::Arc;

use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use serde_json::Value;
use tokio::sync::oneshot;

use super::calls::{Call, Line};
use super::error::{CallError, OpenError};
use super::record::Record;
use super::remote::{Remote, Request};
use super::users::User;

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

    /// How many calls of one rule the function takes at once: so many belong into one
    /// [`exec_many`](Self::exec_many). Another version of the plugin may take more, or fewer.
    pub fn concurrency(&self) -> usize {
        1
    }

    /// Makes many calls for one call site; the outcomes are in their order.
    ///
    /// # Cancel safety
    /// As [`Function::validate`]; the function may or may not have been called.
    pub async fn exec_many(
        &self,
        calls: Vec<Vec<Value>>,
        context: &FunctionContext,
    ) -> Vec<Result<Option<Value>, CallError>> {
        let mut outcomes = Vec::with_capacity(calls.len());
        for args in calls {
            outcomes.push(self.exec(args, context.clone()).await);
        }
        outcomes
    }

    async fn call(&self, call: &FunctionCall) -> Result<FunctionReply, CallError> {
        let outcome = self.ask(call).await;
        match &outcome {
            Ok(FunctionReply::Error(text)) => self.record.note_error(text),
            outcome => self.record.note_call(outcome),
        }
        outcome
    }

    async fn ask(&self, call: &FunctionCall) -> Result<FunctionReply, CallError> {
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
                self.line.standing.note_overdue();
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
