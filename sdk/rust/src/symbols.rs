//! Owns the symbols of a plugin, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;

use crate::erased::{AnyFunction, OpenSink, OpenSource};

/// The symbols of a plugin, by name.
#[derive(Default)]
pub(crate) struct Symbols {
    pub(crate) sources: BTreeMap<SymbolName, OpenSource>,
    pub(crate) sinks: BTreeMap<SymbolName, OpenSink>,
    pub(crate) functions: BTreeMap<SymbolName, Arc<dyn AnyFunction>>,
}

/// There is no such symbol.
#[derive(Debug, thiserror::Error)]
#[error("no {kind} \"{symbol}\" in this plugin; it has {}", list(known))]
pub(crate) struct Unknown {
    kind: SymbolKind,
    symbol: SymbolName,
    known: Vec<SymbolName>,
}

impl Symbols {
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.sinks.is_empty() && self.functions.is_empty()
    }

    pub(crate) fn has(&self, kind: SymbolKind, name: &SymbolName) -> bool {
        match kind {
            SymbolKind::Source => self.sources.contains_key(name),
            SymbolKind::Sink => self.sinks.contains_key(name),
            SymbolKind::Function => self.functions.contains_key(name),
        }
    }

    pub(crate) fn source(&self, name: &SymbolName) -> Result<OpenSource, Unknown> {
        find(&self.sources, SymbolKind::Source, name).copied()
    }

    pub(crate) fn sink(&self, name: &SymbolName) -> Result<OpenSink, Unknown> {
        find(&self.sinks, SymbolKind::Sink, name).copied()
    }

    pub(crate) fn function(&self, name: &SymbolName) -> Result<Arc<dyn AnyFunction>, Unknown> {
        find(&self.functions, SymbolKind::Function, name).cloned()
    }
}

fn find<'a, T>(
    symbols: &'a BTreeMap<SymbolName, T>,
    kind: SymbolKind,
    name: &SymbolName,
) -> Result<&'a T, Unknown> {
    symbols.get(name).ok_or_else(|| Unknown {
        kind,
        symbol: name.clone(),
        known: symbols.keys().cloned().collect(),
    })
}

fn list(names: &[SymbolName]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names
            .iter()
            .map(SymbolName::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    }
}
