//! A rule's definition: eKuiper's JSON, checked for everything that can be told from the text alone.
//!
//! PURE: whether streams, symbols and functions exist is for the compiler to find out.

use mangrove_protocol::Object;
use mangrove_protocol::name::{NameError, RuleId};
use serde::Deserialize;
use serde_json::Value;

/// The most actions of one rule.
const MAX_ACTIONS: usize = 64;

/// The longest queue between two nodes, as the setting `rule.bufferLength` allows it.
const MAX_BUFFER: usize = 1_000_000;

/// The id that `/rules/validate` takes away from rules.
const RESERVED_ID: &str = "validate";

/// What a user wants a rule to be.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub id: RuleId,
    /// For people; the id when absent.
    pub name: String,
    pub sql: String,
    /// At least one.
    pub actions: Vec<Action>,
    pub options: Options,
    /// Whether it is started when it is created.
    pub triggered: bool,
    /// The JSON as it was given, for showing it again.
    pub source: Value,
}

/// One sink of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Action {
    /// The sink's name.
    pub sink: String,
    /// All of its properties; a portable sink gets them as they are.
    pub properties: Object,
    pub options: SinkOptions,
}

/// The properties that every sink has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SinkOptions {
    /// Send each result as an object instead of an array that holds it.
    pub send_single: bool,
    /// Send no empty result.
    pub omit_if_empty: bool,
    /// Wait for the sink's acknowledgement of each result.
    pub require_ack: bool,
    /// Results that wait for this sink before the rule waits; the rule's own `bufferLength` when absent.
    pub buffer_length: Option<usize>,
}

/// A rule's `options`. Those of eKuiper that are not listed are accepted and have no effect yet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Options {
    /// Tuples that wait between two nodes before the one in front waits; the host's setting when absent.
    pub buffer_length: Option<usize>,
}

/// Why a definition is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionError {
    #[error("the rule is no JSON object: {0}")]
    Json(#[source] serde_json::Error),
    #[error("the rule's {field:?} is missing or empty")]
    Missing { field: &'static str },
    #[error("the rule's \"id\": {0}")]
    Id(#[source] NameError),
    #[error("the rule's \"id\" is {RESERVED_ID:?}, which the REST API keeps for itself")]
    ReservedId,
    #[error("the rule's \"id\" is {found:?}, but the path says \"{expected}\"")]
    OtherId { expected: RuleId, found: String },
    #[error("the rule has \"graph\"; only \"sql\" with \"actions\" is supported")]
    Graph,
    #[error("the rule has {0} actions; at most {MAX_ACTIONS} are allowed")]
    TooManyActions(usize),
    #[error("action {index}: expected an object with one sink, such as {{\"log\": {{}}}}")]
    NotOneSink { index: usize },
    #[error("action {index}, sink {sink:?}: {reason}")]
    Sink {
        index: usize,
        sink: String,
        reason: String,
    },
    #[error("\"bufferLength\" is {0}; expected an integer from 1 to {MAX_BUFFER}")]
    BufferLength(usize),
}

impl Definition {
    /// Reads a definition. With `id`, the one in the path, the text need not repeat it.
    pub(crate) fn parse(text: &str, id: Option<&RuleId>) -> Result<Self, DefinitionError> {
        let source: Object = serde_json::from_str(text).map_err(DefinitionError::Json)?;
        let source = Value::Object(source);
        let raw = Raw::deserialize(&source).map_err(DefinitionError::Json)?;
        if raw.graph.is_some() {
            return Err(DefinitionError::Graph);
        }
        let id = match (raw.id.filter(|id| !id.is_empty()), id) {
            (None, None) => return Err(DefinitionError::Missing { field: "id" }),
            (None, Some(expected)) => expected.clone(),
            (Some(found), Some(expected)) if found != expected.as_str() => {
                return Err(DefinitionError::OtherId {
                    expected: expected.clone(),
                    found,
                });
            }
            (Some(found), _) => found.parse().map_err(DefinitionError::Id)?,
        };
        if id.as_str() == RESERVED_ID {
            return Err(DefinitionError::ReservedId);
        }
        let sql = raw
            .sql
            .filter(|sql| !sql.is_empty())
            .ok_or(DefinitionError::Missing { field: "sql" })?;
        if raw.actions.is_empty() {
            return Err(DefinitionError::Missing { field: "actions" });
        }
        if raw.actions.len() > MAX_ACTIONS {
            return Err(DefinitionError::TooManyActions(raw.actions.len()));
        }
        let actions = raw
            .actions
            .into_iter()
            .enumerate()
            .map(Action::parse)
            .collect::<Result<_, _>>()?;
        check_buffer(raw.options.buffer_length)?;
        let name = raw
            .name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| id.to_string());
        Ok(Self {
            id,
            name,
            sql,
            actions,
            options: raw.options,
            triggered: raw.triggered,
            source,
        })
    }
}

impl Action {
    fn parse((index, raw): (usize, Object)) -> Result<Self, DefinitionError> {
        let mut sinks = raw.into_iter();
        let (Some((sink, properties)), None) = (sinks.next(), sinks.next()) else {
            return Err(DefinitionError::NotOneSink { index });
        };
        let refuse = |sink: &str, reason| DefinitionError::Sink {
            index,
            sink: sink.to_owned(),
            reason,
        };
        let properties = match properties {
            Value::Object(properties) => properties,
            Value::Null => Object::new(),
            other => {
                return Err(refuse(
                    &sink,
                    format!("expected an object of properties, found {other}"),
                ));
            }
        };
        let options = SinkOptions::deserialize(&Value::Object(properties.clone()))
            .map_err(|error| refuse(&sink, error.to_string()))?;
        check_buffer(options.buffer_length).map_err(|error| refuse(&sink, error.to_string()))?;
        Ok(Self {
            sink,
            properties,
            options,
        })
    }
}

fn check_buffer(length: Option<usize>) -> Result<(), DefinitionError> {
    match length {
        Some(length) if !(1..=MAX_BUFFER).contains(&length) => Err(DefinitionError::BufferLength(length)),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Raw {
    id: Option<String>,
    name: Option<String>,
    sql: Option<String>,
    actions: Vec<Object>,
    options: Options,
    triggered: bool,
    graph: Option<Value>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: None,
            name: None,
            sql: None,
            actions: Vec::new(),
            options: Options::default(),
            triggered: true,
            graph: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Definition::parse(text, None).unwrap_err().to_string()
    }

    #[test]
    fn ekuipers_own_example_is_read() {
        let text = r#"{"id": "rule1", "sql": "SELECT * FROM demo",
                       "actions": [{"log": {}}, {"command": {"sendSingle": true, "run": ["cat"]}}],
                       "options": {"qos": 0, "bufferLength": 16}}"#;
        let definition = Definition::parse(text, None).unwrap();
        assert_eq!(
            (definition.id.as_str(), definition.name.as_str()),
            ("rule1", "rule1")
        );
        assert!(definition.triggered);
        assert_eq!(definition.options.buffer_length, Some(16));
        let command = &definition.actions[1];
        assert!(command.options.send_single);
        assert!(
            command.properties.contains_key("run"),
            "the sink's own properties are kept"
        );
    }

    #[test]
    fn refusals_name_the_field() {
        let rule = |rest: &str| format!(r#"{{"id":"r","sql":"SELECT * FROM s"{rest}}}"#);
        assert!(refusal("{").starts_with("the rule is no JSON object: EOF"));
        assert!(refusal("[]").starts_with("the rule is no JSON object: "));
        assert_eq!(
            refusal(r#"{"sql":"x"}"#),
            r#"the rule's "id" is missing or empty"#
        );
        assert!(refusal(r#"{"id":"a/b"}"#).contains("contains '/'"));
        assert_eq!(
            refusal(r#"{"id":"a"}"#),
            r#"the rule's "sql" is missing or empty"#
        );
        assert_eq!(refusal(&rule("")), r#"the rule's "actions" is missing or empty"#);
        assert!(
            refusal(&rule(r#","actions":[{"log":{},"nop":{}}]"#)).starts_with("action 0: expected an object")
        );
        assert!(
            refusal(&rule(r#","actions":[{"log":3}]"#))
                .starts_with(r#"action 0, sink "log": expected an object"#)
        );
        assert!(
            refusal(&rule(r#","actions":[{"log":{"sendSingle":"yes"}}]"#)).contains("expected a boolean")
        );
        assert!(refusal(&rule(r#","graph":{}"#)).contains("graph"));
    }

    #[test]
    fn a_queue_can_neither_hold_nothing_nor_everything() {
        let rule = |length: u64| {
            let of_rule = format!(
                r#"{{"id":"r","sql":"SELECT * FROM s","actions":[{{"log":{{}}}}],"options":{{"bufferLength":{length}}}}}"#
            );
            let of_sink = format!(
                r#"{{"id":"r","sql":"SELECT * FROM s","actions":[{{"log":{{"bufferLength":{length}}}}}]}}"#
            );
            [of_rule, of_sink]
        };
        for length in [1, 1_000_000] {
            for text in rule(length) {
                assert!(Definition::parse(&text, None).is_ok(), "{text}");
            }
        }
        for length in [0, 1_000_001, u64::MAX >> 3, u64::MAX] {
            for text in rule(length) {
                let said = refusal(&text);
                let expected =
                    format!(r#""bufferLength" is {length}; expected an integer from 1 to 1000000"#);
                assert!(said.ends_with(&expected), "{said}");
            }
        }
    }

    #[test]
    fn the_path_gives_the_id_and_contradicts_another_one() {
        let id: RuleId = "r1".parse().unwrap();
        let without = r#"{"sql":"SELECT * FROM s","actions":[{"log":{}}]}"#;
        assert_eq!(Definition::parse(without, Some(&id)).unwrap().id, id);
        let other = r#"{"id":"r2","sql":"SELECT * FROM s","actions":[{"log":{}}]}"#;
        assert!(matches!(
            Definition::parse(other, Some(&id)),
            Err(DefinitionError::OtherId { .. })
        ));
    }
}
