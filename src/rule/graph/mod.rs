//! A running rule: one task per node, joined by bounded channels that carry what is ready in
//! batches.
//!
//! ```text
//! source ──rows──▶ project (filter, select, portable calls) ──results──▶ sink 0
//!                                                           └──results──▶ sink 1 …
//! ```
//!
//! Stopping goes down the stream: the source stops taking in, its channel closes, and each node ends when it
//! has dealt with what was queued. [`Graph`] owns the tasks and joins them.

mod flow;
mod input;
mod ledger;
mod project;
mod shared;
mod sink;
mod source;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::control::Meta;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{OpId, RuleId};
use mangrove_protocol::{Fields, Object};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::compile::{Compiled, SinkUse, SourceUse};
use super::definition::Action;
use super::metrics::Metrics;
use crate::config::conf_key;
use crate::{io, plugin};
use input::Input;
use ledger::Mark;

pub(crate) use project::{Call, CallError, open_calls};
pub(crate) use shared::SharedSources;

/// How long a stopping rule may take to deal with what is queued.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// As which rule a shared stream's plugin source runs.
pub(super) const SHARED_RULE: &str = "shared";

/// What nodes are made of.
pub(crate) struct Parts<'a> {
    pub plugins: &'a plugin::Handle,
    pub hub: &'a Arc<io::memory::Hub>,
    pub shared: &'a SharedSources,
    pub home: &'a Path,
}

/// Why a rule could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("stream {stream:?}: {reason}")]
    Source { stream: String, reason: String },
    #[error("action {index}, sink {sink:?}: {reason}")]
    Sink {
        index: usize,
        sink: String,
        reason: String,
    },
    #[error("{0}")]
    Call(#[from] CallError),
}

/// How a running rule came to its end by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The source has nothing more, and all of it was dealt with.
    SourceEnded,
    /// A node failed.
    Failed(String),
    /// A sink has not said that results are safe which the source can bring again: it has to be opened again where
    /// everything before is.
    Unsafe(String),
}

/// A tuple on its way through the rule.
struct Tuple {
    fields: Fields,
    meta: Option<Box<Object>>,
    /// Milliseconds since 1970 when it came.
    timestamp: i64,
    /// What its random numbers are drawn from.
    seed: u64,
}

/// What goes from the source to the project node.
struct Rows {
    rows: Vec<Tuple>,
    /// Of a batch that can be safe, behind its last row.
    mark: Option<Mark>,
}

/// What goes from the project node to each sink.
#[derive(Clone)]
struct Results {
    results: Arc<Vec<Fields>>,
    mark: Option<Mark>,
}

/// The tasks of a running rule. Dropping it stops them at once, without draining.
pub(crate) struct Graph {
    nodes: JoinSet<Option<End>>,
    stop_intake: CancellationToken,
    /// The source's word on why there is no more.
    end: End,
}

/// The counters of a rule's nodes, from the source to the sinks.
pub(crate) type NodeMetrics = Vec<Arc<Metrics>>;

impl Graph {
    /// Opens sinks, functions and source, in this order so that nothing that comes in finds a closed door, and
    /// starts the nodes.
    ///
    /// # Errors
    /// What could not be opened, and why. What was opened before is closed again.
    pub(crate) async fn open(rule: Compiled, parts: &Parts<'_>) -> Result<(Self, NodeMetrics), OpenError> {
        let mut sinks = Vec::new();
        let opened = open_ends(&rule, parts, &mut sinks).await;
        let (calls, source) = match opened {
            Ok(ends) => ends,
            Err(error) => {
                for sink in sinks {
                    sink.close().await;
                }
                return Err(error);
            }
        };
        Ok(Self::start(rule, source, calls, sinks))
    }

    fn start(
        rule: Compiled,
        source: source::Feed,
        calls: Vec<Call>,
        sinks: Vec<sink::Output>,
    ) -> (Self, NodeMetrics) {
        let mut nodes = JoinSet::new();
        let stop_intake = CancellationToken::new();
        let source_metrics = Arc::new(Metrics::new(format!("source_{}_0", rule.source.op)));
        let project_metrics = Arc::new(Metrics::new("op_project_0".to_owned()));
        let mut metrics = vec![source_metrics.clone(), project_metrics.clone()];

        let mut results = Vec::new();
        for (sink, spec) in sinks.into_iter().zip(&rule.sinks) {
            let (sender, receiver) = flow::channel(spec.buffer_length);
            results.push(sender);
            let sink_metrics = Arc::new(Metrics::new(format!("sink_{}_0", spec.op)));
            metrics.push(sink_metrics.clone());
            nodes.spawn(sink::run(
                sink,
                spec.action.options.clone(),
                receiver,
                sink_metrics,
            ));
        }
        let (rows_out, rows_in) = flow::channel(rule.buffer_length);
        nodes.spawn(project::run(
            project::Project {
                plan: rule.plan,
                calls,
            },
            rows_in,
            results,
            project_metrics,
        ));
        nodes.spawn(source::run(
            source,
            rule.source.stream.definition,
            rows_out,
            rule.sinks.len(),
            source_metrics,
            stop_intake.clone(),
        ));
        (
            Self {
                nodes,
                stop_intake,
                end: End::SourceEnded,
            },
            metrics,
        )
    }

    /// Waits until the rule ends by itself.
    ///
    /// # Cancel safety
    /// Safe: the graph goes on and can be waited for again or stopped.
    pub(crate) async fn ended(&mut self) -> End {
        while let Some(node) = self.nodes.join_next().await {
            match node {
                // The nodes behind the source still work off what is queued.
                Ok(None) => {}
                Ok(Some(End::Unsafe(why))) => return End::Unsafe(why),
                Ok(Some(end)) => self.end = end,
                Err(error) => return End::Failed(format!("a node of the rule broke: {error}")),
            }
        }
        self.end.clone()
    }

    /// Stops taking in, waits for what is queued within a limit, then ends what is left.
    pub(crate) async fn stop(mut self) {
        self.stop_intake.cancel();
        let drained = async {
            while !self.nodes.is_empty() {
                self.ended().await;
            }
        };
        if tokio::time::timeout(DRAIN_LIMIT, drained).await.is_err() {
            tracing::warn!(
                "a stopped rule did not finish within {DRAIN_LIMIT:?}; what {} of its nodes had queued is lost",
                self.nodes.len()
            );
            self.nodes.shutdown().await;
        }
    }
}

async fn open_ends(
    rule: &Compiled,
    parts: &Parts<'_>,
    sinks: &mut Vec<sink::Output>,
) -> Result<(Vec<Call>, source::Feed), OpenError> {
    for (index, spec) in rule.sinks.iter().enumerate() {
        let sink = open_sink(&rule.rule, spec, parts)
            .await
            .map_err(|reason| OpenError::Sink {
                index,
                sink: spec.action.sink.clone(),
                reason,
            })?;
        sinks.push(sink);
    }
    let calls = open_calls(&rule.rule, &rule.plan, parts.plugins).await?;
    let source = open_source(rule, parts)
        .await
        .map_err(|reason| OpenError::Source {
            stream: rule.source.stream.definition.name.clone(),
            reason,
        })?;
    Ok((calls, source))
}

fn meta(rule: &RuleId, op: &OpId) -> Meta {
    Meta {
        rule_id: Some(rule.clone()),
        op_id: Some(op.clone()),
        instance_id: 0,
    }
}

/// The properties of the stream's conf key, with those of `EXTRA` laid over them.
fn source_config(home: &Path, spec: &SourceUse) -> Result<Object, String> {
    let key = spec.stream.definition.options.conf_key.as_deref();
    let config = conf_key(home, SymbolKind::Source, &spec.source_type, key);
    let mut config = config.map_err(|error| error.to_string())?;
    config.extend(spec.stream.definition.options.extra.clone().unwrap_or_default());
    Ok(config)
}

/// Checks the properties of a rule's built-in sinks and source as opening them would. Those of portable ones are
/// for their plugins to judge, when they are started.
///
/// # Errors
/// The first that would not open.
pub(crate) fn check_ends(rule: &Compiled, home: &Path, plugins: &plugin::Handle) -> Result<(), OpenError> {
    for (index, spec) in rule.sinks.iter().enumerate() {
        let Action { sink, properties, .. } = &spec.action;
        let opened = io::Sink::open(sink, rule.rule.as_str(), properties.clone(), &Arc::default());
        opened.transpose().map_err(|error| OpenError::Sink {
            index,
            sink: sink.clone(),
            reason: error.to_string(),
        })?;
    }
    check_source(home, &rule.source, plugins)
}

/// The same for a stream's source alone. The conf keys of a plugin come with it: until it is accepted, there is nothing to
/// check.
pub(crate) fn check_source(home: &Path, spec: &SourceUse, plugins: &plugin::Handle) -> Result<(), OpenError> {
    let source_type = spec.source_type.as_str();
    if !io::SOURCES.contains(&source_type) && !plugins.is_accepted(SymbolKind::Source, source_type) {
        return Ok(());
    }
    let refuse = |reason| OpenError::Source {
        stream: spec.stream.definition.name.clone(),
        reason,
    };
    let config = source_config(home, spec).map_err(refuse)?;
    let data_source = &spec.stream.definition.options.data_source;
    let opened = io::Source::open(&spec.source_type, data_source, config, &Arc::default());
    match opened {
        Some(Err(error)) => Err(refuse(error.to_string())),
        _ => Ok(()),
    }
}

async fn open_source(rule: &Compiled, parts: &Parts<'_>) -> Result<source::Feed, String> {
    let spec = &rule.source;
    if !spec.stream.definition.options.shared {
        return open_input(&rule.rule, spec, parts).await.map(source::Feed::Own);
    }
    let everybody: RuleId = SHARED_RULE.parse().map_err(|error| format!("{error}"))?;
    let open = open_input(&everybody, spec, parts);
    let subscribed = parts
        .shared
        .subscribe(&spec.stream.definition.name, rule.buffer_length, open)
        .await;
    subscribed.map(source::Feed::Shared)
}

async fn open_input(rule: &RuleId, spec: &SourceUse, parts: &Parts<'_>) -> Result<Input, String> {
    if !io::SOURCES.contains(&spec.source_type.as_str()) {
        // Its conf keys come with it.
        parts
            .plugins
            .accepted(SymbolKind::Source, &spec.source_type)
            .await;
    }
    let config = source_config(parts.home, spec)?;
    let data_source = &spec.stream.definition.options.data_source;
    if let Some(source) = io::Source::open(&spec.source_type, data_source, config.clone(), parts.hub) {
        return source.map(Input::BuiltIn).map_err(|error| error.to_string());
    }
    let opened = parts
        .plugins
        .open_source(&spec.source_type, meta(rule, &spec.op), data_source, config)
        .await;
    opened
        .map(|source| Input::Portable(Box::new(source)))
        .map_err(|error| error.to_string())
}

async fn open_sink(rule: &RuleId, spec: &SinkUse, parts: &Parts<'_>) -> Result<sink::Output, String> {
    let action = &spec.action;
    if let Some(sink) = io::Sink::open(&action.sink, rule.as_str(), action.properties.clone(), parts.hub) {
        return sink.map(sink::Output::BuiltIn).map_err(|error| error.to_string());
    }
    let (config, ack) = (action.properties.clone(), action.options.require_ack);
    let opened = parts
        .plugins
        .open_sink(&action.sink, meta(rule, &spec.op), config, ack)
        .await;
    opened
        .map(|sink| sink::Output::Portable(Box::new(sink)))
        .map_err(|error| error.to_string())
}
