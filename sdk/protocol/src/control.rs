//! Owns the control channel's messages. The roles are turned around: the plugin's *requests* are
//! [`HANDSHAKE`] and the answers to commands, the host's *replies* are the commands.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Object;
use crate::excerpt::excerpt;
use crate::name::{OpId, RuleId, SymbolName};

/// A plugin's first message, and its keep-alive while it waits.
pub const HANDSHAKE: &[u8] = b"handshake";

/// What a plugin answers when a command succeeded.
pub const OK: &[u8] = b"ok";

/// A command of the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a symbol.
    Start(Symbol),
    /// Stop a symbol that was started.
    Stop(Symbol),
}

/// The symbol that a command is about, and what it needs to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Symbol {
    /// Its name.
    pub name: SymbolName,
    /// For whom it runs.
    pub meta: Meta,
    /// What it is, with what only that kind needs.
    pub use_as: UseAs,
    /// The properties of its conf key.
    pub config: Object,
}

/// The kind of a symbol's use.
#[derive(Clone, Debug, PartialEq)]
pub enum UseAs {
    /// A source of the stream's `DATASOURCE`.
    Source {
        /// The stream's `DATASOURCE`, such as a topic.
        data_source: String,
    },
    /// A sink.
    Sink,
    /// A function; it is started once for all rules.
    Function,
}

/// For which use a symbol runs. Functions run for all rules, so theirs is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// The rule.
    pub rule_id: Option<RuleId>,
    /// The operator in the rule.
    pub op_id: Option<OpId>,
    /// The operator's instance, from 0.
    pub instance_id: u32,
}

/// What a plugin sends on its control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// It is there and waits for a command: its first message, or a keep-alive.
    Handshake,
    /// The command before was carried out.
    Done,
    /// The command before failed; the text is the plugin's.
    Failed(String),
}

/// A command that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Not the JSON of a command.
    #[error("no command: {source}: {excerpt}")]
    Json {
        /// What the parser says.
        source: serde_json::Error,
        /// How the message begins.
        excerpt: String,
    },
    /// An unknown word in `cmd`.
    #[error("unknown command {0:?}; expected start or stop")]
    Unknown(String),
    /// An unknown word in `pluginType`.
    #[error("unknown plugin type {0:?}; expected source, sink or func")]
    PluginType(String),
}

impl Command {
    /// The bytes that the SDKs expect: `arg` is a JSON *string* that holds an object.
    pub fn encode(&self) -> Vec<u8> {
        let (cmd, symbol) = match self {
            Self::Start(symbol) => ("start", symbol),
            Self::Stop(symbol) => ("stop", symbol),
        };
        let arg = serde_json::json!(RawSymbol::from(symbol)).to_string();
        serde_json::json!({ "cmd": cmd, "arg": arg })
            .to_string()
            .into_bytes()
    }

    /// Reads a command, as a plugin does.
    ///
    /// # Errors
    /// It is no JSON of this shape, or has an unknown command or plugin type.
    pub fn decode(message: &[u8]) -> Result<Self, CommandError> {
        let json = |source| CommandError::Json {
            source,
            excerpt: excerpt(message),
        };
        let raw: RawCommand = serde_json::from_slice(message).map_err(json)?;
        let symbol: RawSymbol = serde_json::from_str(&raw.arg).map_err(json)?;
        let symbol = symbol.check()?;
        match raw.cmd.as_str() {
            "start" => Ok(Self::Start(symbol)),
            "stop" => Ok(Self::Stop(symbol)),
            _ => Err(CommandError::Unknown(raw.cmd)),
        }
    }
}

impl Request {
    /// Reads what a plugin sent while a command was outstanding. The published hosts tell a keep-alive by its
    /// first letter, so an error text can't begin with `h`.
    pub fn decode(message: &[u8]) -> Self {
        match message {
            [b'h', ..] => Self::Handshake,
            OK => Self::Done,
            text => Self::Failed(String::from_utf8_lossy(text).into_owned()),
        }
    }
}

#[derive(Deserialize)]
struct RawCommand {
    cmd: String,
    arg: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSymbol {
    symbol_name: SymbolName,
    #[serde(default)]
    meta: Option<RawMeta>,
    plugin_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_source: Option<String>,
    /// The Python SDK's spelling.
    #[serde(default, rename = "datasource", skip_serializing_if = "Option::is_none")]
    data_source_lower: Option<String>,
    #[serde(default)]
    config: Option<Object>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    #[serde(default)]
    rule_id: String,
    #[serde(default)]
    op_id: String,
    #[serde(default)]
    instance_id: u32,
}

impl From<&Symbol> for RawSymbol {
    fn from(symbol: &Symbol) -> Self {
        let (plugin_type, data_source) = match &symbol.use_as {
            UseAs::Source { data_source } => ("source", Some(data_source.clone())),
            UseAs::Sink => ("sink", None),
            UseAs::Function => ("func", None),
        };
        Self {
            symbol_name: symbol.name.clone(),
            meta: Some(RawMeta {
                rule_id: symbol
                    .meta
                    .rule_id
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                op_id: symbol
                    .meta
                    .op_id
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                instance_id: symbol.meta.instance_id,
            }),
            plugin_type: plugin_type.to_owned(),
            data_source_lower: data_source.clone(),
            data_source,
            config: Some(symbol.config.clone()),
        }
    }
}

impl RawSymbol {
    fn check(self) -> Result<Symbol, CommandError> {
        let use_as = match self.plugin_type.as_str() {
            "source" => UseAs::Source {
                data_source: self.data_source.or(self.data_source_lower).unwrap_or_default(),
            },
            "sink" => UseAs::Sink,
            "func" => UseAs::Function,
            _ => return Err(CommandError::PluginType(self.plugin_type)),
        };
        let meta = self.meta.map_or_else(Meta::default, |meta| Meta {
            rule_id: meta.rule_id.parse().ok(),
            op_id: meta.op_id.parse().ok(),
            instance_id: meta.instance_id,
        });
        Ok(Symbol {
            name: self.symbol_name,
            meta,
            use_as,
            config: self.config.unwrap_or_default(),
        })
    }
}

/// The configuration that a process gets as its first argument.
pub fn process_config(send_timeout_ms: u64) -> Value {
    serde_json::json!({ "sendTimeout": send_timeout_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source() -> Symbol {
        Symbol {
            name: "pyjson".parse().unwrap(),
            meta: Meta {
                rule_id: Some("rule1".parse().unwrap()),
                op_id: Some("op1".parse().unwrap()),
                instance_id: 0,
            },
            use_as: UseAs::Source {
                data_source: "topic".to_owned(),
            },
            config: Object::from_iter([("interval".to_owned(), Value::from(10))]),
        }
    }

    #[test]
    fn a_start_command_has_the_shape_that_the_sdks_read() {
        let bytes = Command::Start(source()).encode();
        let outer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(outer["cmd"], "start");
        let arg: Value = serde_json::from_str(outer["arg"].as_str().unwrap()).unwrap();
        assert_eq!(
            arg,
            serde_json::json!({"symbolName": "pyjson", "pluginType": "source",
                "meta": {"ruleId": "rule1", "opId": "op1", "instanceId": 0},
                "dataSource": "topic", "datasource": "topic", "config": {"interval": 10}})
        );
    }

    #[test]
    fn commands_survive_the_round_trip() {
        for use_as in [
            UseAs::Source {
                data_source: "t".to_owned(),
            },
            UseAs::Sink,
            UseAs::Function,
        ] {
            let command = Command::Stop(Symbol { use_as, ..source() });
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
    }

    #[test]
    fn keep_alives_results_and_errors_are_told_apart() {
        assert_eq!(Request::decode(b"handshake"), Request::Handshake);
        assert_eq!(Request::decode(b"ok"), Request::Done);
        assert_eq!(
            Request::decode(b"symbol not found"),
            Request::Failed("symbol not found".to_owned())
        );
        assert_eq!(Request::decode(b""), Request::Failed(String::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Command::decode(&bytes);
            let _ = Request::decode(&bytes);
        }
    }
}
