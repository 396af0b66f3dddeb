//! What each node of a rule counts, under eKuiper's names. Written by the node's one task, read at any time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use mangrove_protocol::Object;
use serde_json::Value;

/// The most characters of an error that are kept.
const MAX_EXCEPTION_CHARS: usize = 1024;

/// The counters of one node.
pub(crate) struct Metrics {
    /// `source_<stream>_0`, `op_project_0`, `sink_<type>_<i>_0`.
    prefix: String,
    records_in: AtomicU64,
    records_out: AtomicU64,
    processed: AtomicU64,
    exceptions: AtomicU64,
    latency_us: AtomicU64,
    buffer_length: AtomicU64,
    /// Milliseconds since the epoch; 0 = never.
    last_invocation: AtomicI64,
    last_exception: Mutex<Option<(Timestamp, String)>>,
}

impl Metrics {
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            processed: AtomicU64::new(0),
            exceptions: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
            buffer_length: AtomicU64::new(0),
            last_invocation: AtomicI64::new(0),
            last_exception: Mutex::new(None),
        }
    }

    /// So many records came in at `now_ms` (since the epoch) and `waiting` more are behind them.
    pub(crate) fn records_in(&self, records: usize, now_ms: i64, waiting: usize) {
        self.records_in.fetch_add(records as u64, Relaxed);
        self.last_invocation.store(now_ms, Relaxed);
        self.buffer_length.store(waiting as u64, Relaxed);
    }

    /// So many records that came in at `start` were dealt with.
    pub(crate) fn processed(&self, records: usize, start: Instant) {
        self.processed.fetch_add(records as u64, Relaxed);
        let each = start.elapsed() / u32::try_from(records.max(1)).unwrap_or(u32::MAX);
        let us = u64::try_from(each.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.store(us, Relaxed);
    }

    pub(crate) fn records_out(&self, records: usize) {
        self.records_out.fetch_add(records as u64, Relaxed);
    }

    pub(crate) fn exception(&self, error: &dyn std::fmt::Display) {
        self.exceptions.fetch_add(1, Relaxed);
        let text = error.to_string().chars().take(MAX_EXCEPTION_CHARS).collect();
        *self.last_exception.lock().unwrap_or_else(PoisonError::into_inner) = Some((Timestamp::now(), text));
    }

    /// Writes this node's figures into the status of its rule.
    pub(crate) fn report(&self, status: &mut Object) {
        let mut put = |name: &str, value: Value| {
            status.insert(format!("{}_{name}", self.prefix), value);
        };
        put("records_in_total", self.records_in.load(Relaxed).into());
        put("records_out_total", self.records_out.load(Relaxed).into());
        put("messages_processed_total", self.processed.load(Relaxed).into());
        put("process_latency_us", self.latency_us.load(Relaxed).into());
        put("buffer_length", self.buffer_length.load(Relaxed).into());
        let last_invocation = match self.last_invocation.load(Relaxed) {
            0 => String::new(),
            ms => Timestamp::from_millisecond(ms)
                .map(|t| t.to_string())
                .unwrap_or_default(),
        };
        put("last_invocation", last_invocation.into());
        put("exceptions_total", self.exceptions.load(Relaxed).into());
        let last = self
            .last_exception
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (time, text) = last.map_or((0, String::new()), |(time, text)| (time.as_millisecond(), text));
        put("last_exception", text.into());
        put("last_exception_time", time.into());
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_uses_the_published_names() {
        let metrics = Metrics::new("source_demo_0".to_owned());
        metrics.records_in(1, 1_700_000_000_000, 3);
        metrics.processed(1, Instant::now());
        metrics.records_out(1);
        metrics.exception(&"x".repeat(5000));
        let mut status = Object::new();
        metrics.report(&mut status);
        assert_eq!(status["source_demo_0_records_in_total"], 1);
        assert_eq!(status["source_demo_0_records_out_total"], 1);
        assert_eq!(status["source_demo_0_exceptions_total"], 1);
        assert_eq!(status["source_demo_0_buffer_length"], 3);
        assert_eq!(status["source_demo_0_last_invocation"], "2023-11-14T22:13:20Z");
        assert_eq!(
            status["source_demo_0_last_exception"].as_str().unwrap().len(),
            MAX_EXCEPTION_CHARS
        );
        assert!(status.contains_key("source_demo_0_process_latency_us"));
    }
}
