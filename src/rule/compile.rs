//! From a definition to what runs: the SQL planned, every name resolved against what exists now.
//!
//! PURE but for asking the plugins' handle which symbols there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{OpId, RuleId};

use super::definition::{Action, Definition};
use super::stream::Stream;
use crate::io;
use crate::plugin;
use crate::sql::{self, Catalog, CreateStream, Plan, SqlError, Statement};

/// Streams by name.
pub(crate) type Streams = BTreeMap<String, Stream>;

/// A rule ready to be opened.
pub(crate) struct Compiled {
    pub rule: RuleId,
    pub plan: Arc<Plan>,
    pub source: SourceUse,
    pub sinks: Vec<SinkUse>,
    /// Tuples between two nodes.
    pub buffer_length: usize,
}

/// The stream that a rule reads.
pub(crate) struct SourceUse {
    pub op: OpId,
    pub stream: Stream,
    /// The source's name: the stream's `TYPE`.
    pub source_type: String,
}

/// One action of a rule.
pub(crate) struct SinkUse {
    pub op: OpId,
    pub action: Action,
    pub buffer_length: usize,
}

/// Why a rule cannot run. All of them are the rule's author's to mend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("the rule's \"sql\": {0}")]
    Sql(#[from] SqlError),
    #[error("the rule's \"sql\": expected a SELECT statement")]
    NotASelect,
    #[error("the rule's \"sql\" reads {0} streams; exactly one is supported")]
    StreamCount(usize),
    #[error("stream {0:?} is not found")]
    NoStream(String),
    #[error("stream {stream:?} has no TYPE; expected {expected}")]
    NoType { stream: String, expected: String },
    #[error("source type {name:?} of stream {stream:?} is not found; expected {expected}")]
    NoSource {
        name: String,
        stream: String,
        expected: String,
    },
    #[error("action {index}: sink {name:?} is not found; expected {expected}")]
    NoSink {
        index: usize,
        name: String,
        expected: String,
    },
    #[error("{what} {name:?} cannot be part of a socket's address: {source}")]
    Name {
        what: &'static str,
        name: String,
        source: mangrove_protocol::name::NameError,
    },
}

/// The names that a plan may use.
pub(crate) struct Names<'a> {
    pub streams: &'a Streams,
    pub plugins: &'a plugin::Handle,
}

impl Catalog for Names<'_> {
    fn stream(&self, name: &str) -> Option<&CreateStream> {
        self.streams.get(name).map(|stream| &*stream.definition)
    }

    fn is_portable_function(&self, name: &str) -> bool {
        self.plugins.symbol(SymbolKind::Function, name).is_some()
    }
}

/// Resolves a rule against `names`; `buffer_length` holds where the rule says nothing.
pub(crate) fn compile(
    definition: &Definition,
    names: &Names<'_>,
    buffer_length: usize,
) -> Result<Compiled, CompileError> {
    let Statement::Select(select) = sql::parse(&definition.sql)? else {
        return Err(CompileError::NotASelect);
    };
    let plan = sql::plan(&select, names)?;
    let [stream] = plan.streams() else {
        return Err(CompileError::StreamCount(plan.streams().len()));
    };
    let stream = names
        .streams
        .get(stream)
        .ok_or_else(|| CompileError::NoStream(stream.clone()))?;
    let source = resolve_source(stream, names.plugins)?;
    let buffer_length = definition.options.buffer_length.unwrap_or(buffer_length);
    let sinks = definition
        .actions
        .iter()
        .enumerate()
        .map(|(index, action)| resolve_sink(index, action, names.plugins, buffer_length))
        .collect::<Result<_, _>>()?;
    Ok(Compiled {
        rule: definition.id.clone(),
        plan: Arc::new(plan),
        source,
        sinks,
        buffer_length,
    })
}

/// Finds the source of a stream.
pub(crate) fn resolve_source(stream: &Stream, plugins: &plugin::Handle) -> Result<SourceUse, CompileError> {
    let expected = || available(SymbolKind::Source, &io::SOURCES, plugins);
    let definition = &stream.definition;
    let Some(source_type) = definition.options.source_type.clone() else {
        return Err(CompileError::NoType {
            stream: definition.name.clone(),
            expected: expected(),
        });
    };
    let is_portable = plugins.symbol(SymbolKind::Source, &source_type).is_some();
    if !is_portable && !io::SOURCES.contains(&source_type.as_str()) {
        let (stream, expected) = (definition.name.clone(), expected());
        return Err(CompileError::NoSource {
            name: source_type,
            stream,
            expected,
        });
    }
    let op = op_id("stream", &definition.name)?;
    Ok(SourceUse {
        op,
        stream: stream.clone(),
        source_type,
    })
}

fn resolve_sink(
    index: usize,
    action: &Action,
    plugins: &plugin::Handle,
    buffer_length: usize,
) -> Result<SinkUse, CompileError> {
    let name = &action.sink;
    if plugins.symbol(SymbolKind::Sink, name).is_none() && !io::SINKS.contains(&name.as_str()) {
        let expected = available(SymbolKind::Sink, &io::SINKS, plugins);
        return Err(CompileError::NoSink {
            index,
            name: name.clone(),
            expected,
        });
    }
    Ok(SinkUse {
        op: op_id("sink", &format!("{name}_{index}"))?,
        action: action.clone(),
        buffer_length: action.options.buffer_length.unwrap_or(buffer_length),
    })
}

fn op_id(what: &'static str, name: &str) -> Result<OpId, CompileError> {
    name.parse().map_err(|source| CompileError::Name {
        what,
        name: name.to_owned(),
        source,
    })
}

/// The names of all there is, for an error message.
fn available(kind: SymbolKind, built_in: &[&str], plugins: &plugin::Handle) -> String {
    let mut names: Vec<String> = built_in.iter().map(|name| (*name).to_owned()).collect();
    names.extend(
        plugins
            .symbols(kind)
            .into_iter()
            .map(|(name, ..)| name.to_string()),
    );
    names.sort();
    format!("one of {}", names.join(", "))
}
