//! The node in the middle: filter and select by the plan, with the portable calls that it asks for.
//!
//! Where a function takes many calls at once, the rows are worked on in chunks: all rows of a chunk are evaluated
//! until each of them has its result or needs a call, the calls are made together, and so on. Some chunks are under
//! way at a time, and their results leave in the order of the rows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;
use mangrove_protocol::Fields;
use mangrove_protocol::data::FunctionContext;
use mangrove_protocol::name::{OpId, RuleId};
use serde_json::Value;

use super::flow::{Receiver, Sender};
use super::ledger::Mark;
use super::{End, Results, Rows, Tuple};
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
    context: Arc<FunctionContext>,
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
    #[error("the message cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("{0}")]
    Eval(#[from] EvalError),
    #[error("function {function:?}: {source}")]
    Call {
        function: String,
        source: Box<plugin::CallError>,
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
        let context = Arc::new(FunctionContext {
            rule_id: rule.clone(),
            op_id,
            instance_id: 0,
            func_id,
        });
        calls.push(Call {
            function,
            aggregate,
            context,
        });
    }
    Ok(calls)
}

/// What became of one row; `None`: the filter dropped it.
type Outcome = Result<Option<Fields>, RowError>;

/// A row on its way to its outcome.
struct Pending {
    index: usize,
    row: Row,
    results: CallResults,
}

/// What became of the rows of a chunk, in their order.
struct Chunk {
    outcomes: Vec<Outcome>,
    mark: Option<Mark>,
    start: Instant,
}

/// About how many bytes a result takes.
const RESULT: usize = 64;

/// Chunks that are under way at a time, where a function takes many calls at once: while one is at the plugin,
/// the next is prepared.
const CHUNKS: usize = 4;

impl Project {
    /// How many rows are worked on together, and how many times that.
    fn pace(&self) -> (usize, usize) {
        match self.calls.iter().map(|call| call.function.concurrency()).min() {
            None => (usize::MAX, 1),
            Some(1) => (1, 1),
            Some(many) => (many, CHUNKS),
        }
    }

    /// Reads as much of a tuple as the plan looks at.
    fn read(&self, index: usize, tuple: Tuple) -> Result<Pending, RowError> {
        Ok(Pending {
            index,
            row: Row {
                message: self.plan.read(tuple.fields)?,
                meta: tuple.meta,
                timestamp: tuple.timestamp,
                seed: tuple.seed,
            },
            results: CallResults::default(),
        })
    }

    async fn work(&self, rows: Vec<Tuple>, mark: Option<Mark>) -> Chunk {
        let start = Instant::now();
        if self.plan.is_identity() {
            return Chunk {
                outcomes: rows.into_iter().map(|row| Ok(Some(row.fields))).collect(),
                mark,
                start,
            };
        }
        let mut emitted = BytesMut::with_capacity(RESULT * rows.len());
        let mut outcomes: Vec<Option<Outcome>> = rows.iter().map(|_| None).collect();
        let mut open = Vec::with_capacity(rows.len());
        for (index, tuple) in rows.into_iter().enumerate() {
            match self.read(index, tuple) {
                Ok(pending) => open.push(pending),
                Err(error) => outcomes[index] = Some(Err(error)),
            }
        }
        while !open.is_empty() {
            // By site: the rows that need the call, and with which arguments.
            let mut wanted: BTreeMap<usize, (Vec<Pending>, Vec<Vec<Value>>)> = BTreeMap::new();
            let count = open.len();
            for pending in open.drain(..) {
                let step = self
                    .plan
                    .evaluate_into(&pending.row, &pending.results, &mut emitted);
                let outcome = match step {
                    Ok(Step::Emit(result)) => Ok(Some(result)),
                    Ok(Step::Drop) => Ok(None),
                    Ok(Step::Call { site, args }) => {
                        let room = || (Vec::with_capacity(count), Vec::with_capacity(count));
                        let (rows, calls) = wanted.entry(site).or_insert_with(room);
                        rows.push(pending);
                        calls.push(args);
                        continue;
                    }
                    Err(error) => Err(error.into()),
                };
                outcomes[pending.index] = Some(outcome);
            }
            let made = wanted.into_iter().map(async |(site, (rows, calls))| {
                let results = self.call(site, calls).await;
                (site, rows.into_iter().zip(results))
            });
            for (site, answered) in join_all(made).await {
                for (mut pending, result) in answered {
                    match result {
                        Ok(value) => {
                            pending.results.set(site, value.unwrap_or(Value::Null));
                            open.push(pending);
                        }
                        Err(source) => {
                            let function = self.plan.calls()[site].function.clone();
                            let source = Box::new(source);
                            outcomes[pending.index] = Some(Err(RowError::Call { function, source }));
                        }
                    }
                }
            }
        }
        Chunk {
            outcomes: outcomes.into_iter().flatten().collect(),
            mark,
            start,
        }
    }

    async fn call(
        &self,
        site: usize,
        mut calls: Vec<Vec<Value>>,
    ) -> Vec<Result<Option<Value>, plugin::CallError>> {
        let call = &self.calls[site];
        if call.aggregate {
            // Without a window each row is a group of its own: an aggregate gets lists of one.
            for args in &mut calls {
                for arg in args {
                    *arg = Value::Array(vec![arg.take()]);
                }
            }
        }
        call.function.exec_many(calls, &call.context).await
    }
}

pub(super) async fn run(
    project: Project,
    mut rows: Receiver<Rows>,
    sinks: Vec<Sender<Results>>,
    metrics: Arc<Metrics>,
) -> Option<End> {
    // What is left of a batch, and its mark.
    let mut waiting: VecDeque<Tuple> = VecDeque::new();
    let mut mark = None;
    let mut under_way = FuturesOrdered::new();
    let mut more = true;
    loop {
        let (chunk, most) = project.pace();
        while (!waiting.is_empty() || mark.is_some()) && under_way.len() < most {
            let rows = waiting.drain(..chunk.min(waiting.len())).collect();
            let mark = if waiting.is_empty() { mark.take() } else { None };
            under_way.push_back(project.work(rows, mark));
        }
        let done = tokio::select! {
            biased;
            Some(done) = under_way.next() => done,
            batch = rows.recv(), if more && waiting.is_empty() => {
                match batch {
                    Some(batch) => {
                        metrics.records_in(batch.rows.len(), now_ms(), rows.waiting());
                        waiting.extend(batch.rows);
                        mark = batch.mark;
                    }
                    None => more = false,
                }
                continue;
            }
            else => return None,
        };
        let processed = done.outcomes.len();
        let mut results = Vec::with_capacity(processed);
        for outcome in done.outcomes {
            match outcome {
                Ok(Some(result)) => results.push(result),
                Ok(None) => {}
                Err(error) => metrics.exception(&error),
            }
        }
        let passed = results.len();
        let results = Results {
            results: Arc::new(results),
            mark: done.mark,
        };
        if passed > 0 || results.mark.is_some() {
            for sink in &sinks {
                if sink.send(results.clone(), passed).await.is_err() {
                    return Some(End::Failed("a sink of the rule is gone".to_owned()));
                }
            }
        }
        metrics.records_out(passed);
        metrics.processed(processed, done.start);
    }
}
