//! Owns what is remembered of each symbol of one plugin: when it last worked, how often it did not, and what it
//! said then. The channels write, whoever asks for the status reads; nobody waits for anybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::control::{Metric, MetricKind};

use super::error::{CallError, ChannelError};
use super::status::{SymbolStatus, Symbols};

/// The longest error text that is kept, in bytes.
const MAX_TEXT: usize = 1024;

/// The most figures that are kept of one symbol.
const METRICS: usize = 64;

/// The longest name of a figure that is kept, in bytes.
const METRIC_NAME: usize = 64;

/// One symbol, over all its uses and processes.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Milliseconds since the epoch; 0: never.
    last_ok: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<String>,
    metrics: Mutex<BTreeMap<String, f64>>,
}

impl Record {
    /// It worked just now.
    pub(super) fn note_ok(&self) {
        self.last_ok
            .store(milliseconds(SystemTime::now()), Ordering::Relaxed);
    }

    /// It did not work just now.
    pub(super) fn note_error(&self, text: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut last = lock(&self.last_error);
        last.clear();
        last.push_str(&text[..text.floor_char_boundary(MAX_TEXT)]);
    }

    /// A figure that the symbol tells of itself. There is room for so many names.
    pub(super) fn note_metric(&self, metric: &Metric) {
        let mut metrics = lock(&self.metrics);
        if metric.name.len() > METRIC_NAME
            || (metrics.len() >= METRICS && !metrics.contains_key(&metric.name))
        {
            return;
        }
        let value = metrics.entry(metric.name.clone()).or_default();
        match metric.kind {
            MetricKind::Counter => *value += metric.value,
            MetricKind::Gauge => *value = metric.value,
        }
    }

    /// What has come of a tuple, a message or an event of a channel.
    pub(super) fn note<T>(&self, outcome: &Result<T, ChannelError>) {
        match outcome {
            Ok(_) => self.note_ok(),
            // The host's doing, not the symbol's.
            Err(ChannelError::Stopping) => {}
            Err(error) => self.note_error(&error.to_string()),
        }
    }

    /// What has come of a call.
    pub(super) fn note_call<T>(&self, outcome: &Result<T, CallError>) {
        match outcome {
            Ok(_) => self.note_ok(),
            Err(error) => self.note_error(&error.to_string()),
        }
    }

    fn status(&self) -> SymbolStatus {
        SymbolStatus {
            last_ok: Some(self.last_ok.load(Ordering::Relaxed)).filter(|at| *at > 0),
            errors: self.errors.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
            metrics: lock(&self.metrics).clone(),
        }
    }
}

/// Every symbol of one plugin that was ever used.
#[derive(Debug, Default)]
pub(super) struct Records {
    symbols: Mutex<BTreeMap<(SymbolKind, SymbolName), Arc<Record>>>,
}

impl Records {
    /// The record of a symbol.
    pub(super) fn of(&self, kind: SymbolKind, name: &SymbolName) -> Arc<Record> {
        Arc::clone(lock(&self.symbols).entry((kind, name.clone())).or_default())
    }

    /// Forgets what the plugin no longer has.
    pub(super) fn retain_defined(&self, manifest: &Manifest) {
        lock(&self.symbols).retain(|(kind, name), _| manifest.symbols(*kind).contains(name));
    }

    /// Every symbol of the manifest, used or not.
    pub(super) fn symbols(&self, manifest: &Manifest) -> Symbols {
        let known = lock(&self.symbols);
        let of = |kind| {
            let names = manifest.symbols(kind).iter();
            names
                .map(|name| {
                    let record = known.get(&(kind, name.clone()));
                    (
                        name.to_string(),
                        record.map(|record| record.status()).unwrap_or_default(),
                    )
                })
                .collect()
        };
        Symbols {
            sources: of(SymbolKind::Source),
            sinks: of(SymbolKind::Sink),
            functions: of(SymbolKind::Function),
        }
    }
}

/// Milliseconds since the epoch.
pub(super) fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_of_the_manifest_is_shown_and_no_other() {
        let json = r#"{"version":"1","language":"go","executable":"x","sources":["a","b"],"sinks":["a"]}"#;
        let manifest = Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap();
        let records = Records::default();
        let record = records.of(SymbolKind::Source, &"a".parse().unwrap());
        record.note_ok();
        record.note_error(&"ä".repeat(MAX_TEXT));
        records.of(SymbolKind::Source, &"gone".parse().unwrap()).note_ok();
        let symbols = records.symbols(&manifest);
        assert_eq!(symbols.sources.keys().collect::<Vec<_>>(), ["a", "b"]);
        let shown = &symbols.sources["a"];
        assert!(shown.last_ok.is_some());
        assert_eq!((shown.errors, shown.last_error.len()), (1, MAX_TEXT));
        assert_eq!(symbols.sources["b"], SymbolStatus::default());
        assert_eq!(symbols.sinks["a"], SymbolStatus::default());
        records.retain_defined(&manifest);
        assert_eq!(lock(&records.symbols).len(), 1);
    }
}
