//! The node in the middle: filter and select by the plan, with the portable calls that it asks for.

use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::Object;
use mangrove_protocol::data::FunctionContext;
use mangrove_protocol::name::{OpId, RuleId};
use serde_json::Value;
use tokio::sync::mpsc;

use super::End;
use crate::plugin;
use crate::rule::metrics::{Metrics, now_ms};
use crate::sql::{CallResults, EvalError, Plan, Row, Step};

/// A plan with its portable functions at hand.
pub(super) struct Project {
    pub plan: Arc<Plan>,
    /// By site.
    pub calls: Vec<Call>,
}

/// One call site of a portable function.
pub(crate) struct Call {
    function: plugin::Function,
    aggregate: bool,
    context: FunctionContext,
}

/// Why a rule's portable function cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("function {function:?}: {reason}")]
pub(crate) struct CallError {
    function: String,
    reason: String,
}

#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error("{0}")]
    Eval(#[from] EvalError),
    #[error("function {function:?}: {source}")]
    Call {
        function: String,
        source: plugin::CallError,
    },
}

/// Starts the portable functions of a plan, and lets each of them check its arguments.
pub(crate) async fn open_calls(
    rule: &RuleId,
    plan: &Plan,
    plugins: &plugin::Handle,
) -> Result<Vec<Call>, CallError> {
    let mut calls = Vec::new();
    for site in plan.calls() {
        let refuse = |reason: String| CallError {
            function: site.function.clone(),
            reason,
        };
        let function = plugins
            .function(&site.function, rule.as_str())
            .await
            .map_err(|e| refuse(e.to_string()))?;
        function
            .validate(site.args.clone())
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let aggregate = function.is_aggregate().await.map_err(|e| refuse(e.to_string()))?;
        let op_id: OpId = "project".parse().map_err(|e| refuse(format!("{e}")))?;
        let func_id = u32::try_from(site.site).map_err(|e| refuse(e.to_string()))?;
        let context = FunctionContext {
            rule_id: rule.clone(),
            op_id,
            instance_id: 0,
            func_id,
        };
        calls.push(Call {
            function,
            aggregate,
            context,
        });
    }
    Ok(calls)
}

impl Project {
    /// What becomes of one row; `None`: the filter dropped it.
    async fn process(&self, row: &mut Row) -> Result<Option<Object>, RowError> {
        let mut results = CallResults::default();
        loop {
            match self.plan.evaluate_taking(row, &results)? {
                Step::Emit(result) => return Ok(Some(result)),
                Step::Drop => return Ok(None),
                Step::Call { site, function, args } => {
                    let result = self.call(site, args).await;
                    let result = result.map_err(|source| RowError::Call { function, source })?;
                    results.set(site, result.unwrap_or(Value::Null));
                }
            }
        }
    }

    async fn call(&self, site: usize, mut args: Vec<Value>) -> Result<Option<Value>, plugin::CallError> {
        let call = &self.calls[site];
        if call.aggregate {
            // Without a window each row is a group of its own: an aggregate gets lists of one.
            args = args.into_iter().map(|arg| Value::Array(vec![arg])).collect();
        }
        call.function.exec(args, call.context.clone()).await
    }
}

pub(super) async fn run(
    project: Project,
    mut rows: mpsc::Receiver<Row>,
    sinks: Vec<mpsc::Sender<Arc<Object>>>,
    metrics: Arc<Metrics>,
) -> Option<End> {
    while let Some(mut row) = rows.recv().await {
        let start = Instant::now();
        metrics.record_in(now_ms(), rows.len());
        match project.process(&mut row).await {
            Ok(Some(result)) => {
                let result = Arc::new(result);
                for sink in &sinks {
                    if sink.send(result.clone()).await.is_err() {
                        return Some(End::Failed("a sink of the rule is gone".to_owned()));
                    }
                }
                metrics.record_out();
            }
            Ok(None) => {}
            Err(error) => metrics.exception(&error),
        }
        metrics.processed(start);
    }
    None
}
