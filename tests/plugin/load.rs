//! What a rule does with a plugin: tuples of its source go through its function into its sink, and are counted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mangrove::plugin::{ChannelError, Function, Sink, Source};
use mangrove_protocol::data::FunctionContext;
use serde_json::{Value, json};
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What the sink has acknowledged, in order.
    pub(crate) acknowledged: Vec<String>,
    /// Everything that went wrong.
    pub(crate) errors: Vec<String>,
    /// The longest time from one acknowledged tuple to the next.
    pub(crate) longest: Duration,
    /// Which processes the tuples came from.
    pub(crate) processes: BTreeSet<u64>,
}

pub(crate) struct Load {
    task: JoinSet<Report>,
    stop: CancellationToken,
    done: watch::Receiver<Done>,
}

/// How far the rule is.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    tuples: usize,
    /// Where the last one came from.
    process: u64,
}

/// One rule's use of a plugin.
pub(crate) struct Rule {
    pub(crate) source: Source,
    pub(crate) function: Function,
    pub(crate) sink: Sink,
    /// The function's arguments for a tuple.
    pub(crate) args: fn(&Value) -> Vec<Value>,
}

impl Load {
    pub(crate) fn start(rule: Rule) -> Self {
        let stop = CancellationToken::new();
        let (count, done) = watch::channel(Done::default());
        let mut task = JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move { run(rule, &stopped, &count).await });
        Self { task, stop, done }
    }

    /// Waits for so many more tuples.
    pub(crate) async fn more(&mut self, tuples: usize) {
        let wanted = self.done.borrow().tuples + tuples;
        let done = self.done.wait_for(|done| done.tuples >= wanted);
        within("tuples", done).await.expect("the rule runs");
    }

    /// Waits for a tuple of this process: what others have sent before stands in line.
    pub(crate) async fn until_process(&mut self, pid: u32) {
        let done = self.done.wait_for(|done| done.process == u64::from(pid));
        within("a tuple of the process", done)
            .await
            .expect("the rule runs");
    }

    pub(crate) async fn finish(mut self) -> Report {
        self.stop.cancel();
        let report = within("the rule's end", self.task.join_next()).await;
        report.expect("one task").expect("it has not panicked")
    }
}

async fn run(mut rule: Rule, stop: &CancellationToken, done: &watch::Sender<Done>) -> Report {
    let mut report = Report::default();
    let mut last = Instant::now();
    while let Some(Some(received)) = stop.run_until_cancelled(rule.source.recv()).await {
        let tuple = match received {
            Ok(tuple) => Value::Object(tuple.message.into_object().unwrap()),
            Err(error) => {
                report.errors.push(format!("source: {error}"));
                if matches!(error, ChannelError::Ended { .. } | ChannelError::Stopping) {
                    break;
                }
                continue;
            }
        };
        let process = tuple["pid"].as_u64();
        report.processes.extend(process);
        let context = FunctionContext {
            rule_id: "load".parse().unwrap(),
            op_id: "op".parse().unwrap(),
            instance_id: 0,
            func_id: 0,
        };
        let result = match rule.function.exec((rule.args)(&tuple), context).await {
            Ok(result) => result,
            Err(error) => {
                report.errors.push(format!("function: {error}"));
                continue;
            }
        };
        let text = json!([{"number": report.acknowledged.len(), "result": result}]).to_string();
        match rule.sink.send(text.clone().into()).await {
            Ok(()) => {
                report.acknowledged.push(text);
                report.longest = report.longest.max(last.elapsed());
                last = Instant::now();
                done.send_replace(Done {
                    tuples: report.acknowledged.len(),
                    process: process.unwrap_or_default(),
                });
            }
            Err(error) => report.errors.push(format!("sink: {error}")),
        }
    }
    report
}
