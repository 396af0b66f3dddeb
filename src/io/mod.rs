//! Owns the built-in sources and sinks.
//!
//! They know nothing of plugins, rules or SQL: a source yields [`Tuple`]s, a sink takes result objects. The
//! nodes of a running rule drive them, each instance from one task.

pub(crate) mod memory;
mod simulator;

use std::sync::Arc;

use bytes::Bytes;
use mangrove_protocol::{Fields, Object};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One message of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tuple {
    /// The fields.
    pub message: Fields,
    /// What the source says about the message, if it does; readable in SQL by `meta()`.
    pub meta: Option<Box<Object>>,
}

/// Why a built-in source or sink cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?}: {reason}")]
pub(crate) struct OpenError {
    kind: &'static str,
    name: &'static str,
    reason: String,
}

/// The names of the built-in sources.
pub(crate) const SOURCES: [&str; 2] = [MEMORY, SIMULATOR];
/// The names of the built-in sinks.
pub(crate) const SINKS: [&str; 3] = [LOG, MEMORY, NOP];

const LOG: &str = "log";
const MEMORY: &str = "memory";
const NOP: &str = "nop";
const SIMULATOR: &str = "simulator";

/// A built-in source, open.
pub(crate) enum Source {
    /// Yields the messages of its configuration, in turn.
    Simulator(simulator::Simulator),
    /// Yields what memory sinks publish on a topic.
    Memory(memory::Subscription),
}

/// A built-in sink, open.
pub(crate) enum Sink {
    /// Writes results to the host's log.
    Log {
        /// Whose results.
        rule: String,
    },
    /// Publishes results on a topic for memory sources.
    Memory(memory::Publisher),
    /// Takes results and forgets them.
    Nop,
}

impl Source {
    /// Opens the built-in source `name`; `None` when there is no such.
    pub(crate) fn open(
        name: &str,
        data_source: &str,
        config: Object,
        hub: &Arc<memory::Hub>,
    ) -> Option<Result<Self, OpenError>> {
        let refuse = |name, reason| OpenError {
            kind: "source",
            name,
            reason,
        };
        match name {
            SIMULATOR => Some(
                typed(config)
                    .and_then(|config| simulator::Simulator::open(config).map_err(str::to_owned))
                    .map(Self::Simulator)
                    .map_err(|reason| refuse(SIMULATOR, reason)),
            ),
            MEMORY => Some(
                typed(config)
                    .and_then(|config| hub.subscribe(data_source, config).map_err(|e| e.to_string()))
                    .map(Self::Memory)
                    .map_err(|reason| refuse(MEMORY, reason)),
            ),
            _ => None,
        }
    }

    /// The next message; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<Tuple> {
        match self {
            Self::Simulator(simulator) => simulator.recv().await,
            Self::Memory(subscription) => subscription.recv().await,
        }
    }
}

impl Sink {
    /// Opens the built-in sink `name`; `None` when there is no such.
    pub(crate) fn open(
        name: &str,
        rule: &str,
        config: Object,
        hub: &Arc<memory::Hub>,
    ) -> Option<Result<Self, OpenError>> {
        match name {
            LOG => Some(Ok(Self::Log {
                rule: rule.to_owned(),
            })),
            NOP => Some(Ok(Self::Nop)),
            MEMORY => Some(
                typed(config)
                    .and_then(|config| hub.publisher(config).map_err(|e| e.to_string()))
                    .map(Self::Memory)
                    .map_err(|reason| OpenError {
                        kind: "sink",
                        name: MEMORY,
                        reason,
                    }),
            ),
            _ => None,
        }
    }

    /// Takes one result; `single` is the action's `sendSingle`. Waits while the other end is full.
    pub(crate) async fn send(&mut self, result: &Fields, single: bool) {
        match self {
            Self::Log { rule } => {
                let text = encode(&[result], single).concat();
                tracing::info!(target: "mangrove::sink::log", "{rule}: {}", String::from_utf8_lossy(&text));
            }
            Self::Memory(publisher) => publisher.publish(result).await,
            Self::Nop => {}
        }
    }
}

/// Results as JSON text, each of them an object when `single`, else an array that holds it. All share one piece of memory.
pub(crate) fn encode(results: &[&Fields], single: bool) -> Vec<Bytes> {
    let mut text = Vec::with_capacity(256 * results.len());
    let mut ends = Vec::with_capacity(results.len());
    for result in results {
        if !single {
            text.push(b'[');
        }
        result.write(&mut text);
        if !single {
            text.push(b']');
        }
        ends.push(text.len());
    }
    let mut text = Bytes::from(text);
    let mut begin = 0;
    let mut split = |end| text.split_to(end - std::mem::replace(&mut begin, end));
    ends.into_iter().map(&mut split).collect()
}

fn typed<T: DeserializeOwned>(config: Object) -> Result<T, String> {
    serde_json::from_value(Value::Object(config)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_sent_in_an_array_unless_single() {
        let one = Fields::from(Object::from_iter([("a".to_owned(), Value::from(1))]));
        let none = Fields::default();
        assert_eq!(encode(&[&one, &none], false), [&br#"[{"a":1}]"#[..], b"[{}]"]);
        assert_eq!(encode(&[&one, &none], true), [&br#"{"a":1}"#[..], b"{}"]);
        assert!(encode(&[], true).is_empty());
    }

    #[test]
    fn an_unknown_name_is_no_built_in() {
        let hub = Arc::new(memory::Hub::default());
        assert!(Source::open("mqtt", "", Object::new(), &hub).is_none());
        assert!(Sink::open("mqtt", "r", Object::new(), &hub).is_none());
    }

    #[test]
    fn a_bad_property_is_refused_by_name() {
        let hub = Arc::new(memory::Hub::default());
        let config = Object::from_iter([("interval".to_owned(), Value::from("soon"))]);
        let error = Source::open(SIMULATOR, "", config, &hub).unwrap().err().unwrap();
        assert!(
            error
                .to_string()
                .starts_with("source \"simulator\": invalid type: string \"soon\""),
            "{error}"
        );
    }
}
