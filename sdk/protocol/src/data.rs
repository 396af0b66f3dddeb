//! Owns what travels on the data channels: tuples of sources, acknowledgements of sinks, calls of functions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Object;
use crate::excerpt::excerpt;
use crate::name::{OpId, RuleId};

/// What a source sends.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceMessage {
    /// One tuple.
    Tuple {
        /// The fields.
        message: Object,
        /// What the source says about the tuple, readable in SQL by `meta()`.
        meta: Object,
    },
    /// The source failed; the text is the plugin's.
    Error(String),
}

/// What a sink answers to one message when acknowledgements are on.
pub type SinkAck = Result<(), String>;

/// What the host asks of a function.
#[derive(Clone, Debug, PartialEq)]
pub enum FunctionCall {
    /// Are these arguments acceptable? Column arguments arrive as their SQL text.
    Validate(Vec<Value>),
    /// Does it work on groups?
    IsAggregate,
    /// Call it.
    Exec {
        /// The arguments.
        args: Vec<Value>,
        /// For whom.
        context: FunctionContext,
    },
}

/// For which call site a function is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionContext {
    /// The rule.
    pub rule_id: RuleId,
    /// The operator in the rule.
    pub op_id: OpId,
    /// The operator's instance, from 0.
    pub instance_id: u32,
    /// The call site in the rule, from 0.
    pub func_id: u32,
}

/// What a function answers.
#[derive(Clone, Debug, PartialEq)]
pub enum FunctionReply {
    /// The result.
    Result(Value),
    /// No result and no error: the call yields nothing.
    Nothing,
    /// It failed; the text is the plugin's.
    Error(String),
}

/// A message on a data channel that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}: {reason}: {excerpt}")]
pub struct DataError {
    /// What should have come.
    expected: &'static str,
    /// What is wrong.
    reason: String,
    /// How the message begins.
    excerpt: String,
}

impl DataError {
    pub(crate) fn new(expected: &'static str, reason: impl ToString, message: &[u8]) -> Self {
        Self {
            expected,
            reason: reason.to_string(),
            excerpt: excerpt(message),
        }
    }
}

impl SourceMessage {
    /// The bytes of this message.
    pub fn encode(&self) -> Vec<u8> {
        let json = match self {
            Self::Tuple { message, meta } => serde_json::json!({ "message": message, "meta": meta }),
            Self::Error(text) => serde_json::json!({ "error": text }),
        };
        json.to_string().into_bytes()
    }

    /// The bytes of a tuple whose fields and meta are JSON objects already.
    pub fn encode_json(message: &[u8], meta: &[u8]) -> Vec<u8> {
        [&b"{\"message\":"[..], message, b",\"meta\":", meta, b"}"].concat()
    }

    /// Reads what a source sent.
    ///
    /// # Errors
    /// It is neither a tuple nor an error.
    pub fn decode(message: &[u8]) -> Result<Self, DataError> {
        const EXPECTED: &str = r#"{"message":{…},"meta":{…}} or {"error":"…"}"#;
        let wrong = |reason: &dyn ToString| DataError::new(EXPECTED, reason.to_string(), message);
        // The Go SDK wraps its error object in a JSON string once more.
        let unwrapped: Option<String> = match message.first() {
            Some(b'"') => Some(serde_json::from_slice(message).map_err(|e| wrong(&e))?),
            _ => None,
        };
        let raw: RawSourceMessage = match &unwrapped {
            Some(inner) => serde_json::from_str(inner),
            None => serde_json::from_slice(message),
        }
        .map_err(|e| wrong(&e))?;
        match raw {
            RawSourceMessage {
                error: Some(text), ..
            } if !text.is_empty() => Ok(Self::Error(text)),
            RawSourceMessage {
                message: Some(message),
                meta,
                ..
            } => Ok(Self::Tuple {
                message,
                meta: meta.unwrap_or_default(),
            }),
            _ => Err(wrong(&"it has neither \"message\" nor \"error\"")),
        }
    }
}

/// The bytes of an acknowledgement.
pub fn encode_ack(ack: &SinkAck) -> Vec<u8> {
    match ack {
        Ok(()) => b"{}".to_vec(),
        Err(text) => serde_json::json!({ "error": text }).to_string().into_bytes(),
    }
}

/// Reads an acknowledgement.
///
/// # Errors
/// It is no JSON object, or its `error` is no text.
pub fn decode_ack(message: &[u8]) -> Result<SinkAck, DataError> {
    let raw: RawAck =
        serde_json::from_slice(message).map_err(|e| DataError::new(r#"{} or {"error":"…"}"#, e, message))?;
    Ok(match raw.error {
        Some(text) if !text.is_empty() => Err(text),
        _ => Ok(()),
    })
}

impl FunctionCall {
    /// The bytes of this call.
    pub fn encode(&self) -> Vec<u8> {
        let json = match self {
            Self::Validate(args) => serde_json::json!({ "func": "Validate", "arg": args }),
            Self::IsAggregate => serde_json::json!({ "func": "IsAggregate", "arg": null }),
            Self::Exec { args, context } => {
                let context = Value::String(serde_json::json!(context).to_string());
                let args: Vec<&Value> = args.iter().chain([&context]).collect();
                serde_json::json!({ "func": "Exec", "arg": args })
            }
        };
        json.to_string().into_bytes()
    }

    /// Reads a call, as a plugin does.
    ///
    /// # Errors
    /// It is no JSON of this shape, names an unknown function, or lacks the context.
    pub fn decode(message: &[u8]) -> Result<Self, DataError> {
        const EXPECTED: &str = r#"{"func":"Validate"|"IsAggregate"|"Exec","arg":[…]}"#;
        let wrong = |reason: &dyn ToString| DataError::new(EXPECTED, reason.to_string(), message);
        let raw: RawCall = serde_json::from_slice(message).map_err(|e| wrong(&e))?;
        match raw.func.as_str() {
            "Validate" => Ok(Self::Validate(raw.arg.unwrap_or_default())),
            "IsAggregate" => Ok(Self::IsAggregate),
            "Exec" => {
                let mut args = raw.arg.unwrap_or_default();
                let Some(Value::String(context)) = args.pop() else {
                    return Err(wrong(&"the last argument is not the context"));
                };
                let context = serde_json::from_str(&context).map_err(|e| wrong(&e))?;
                Ok(Self::Exec { args, context })
            }
            _ => Err(wrong(&"unknown \"func\"")),
        }
    }
}

impl FunctionReply {
    /// The bytes of this reply.
    pub fn encode(&self) -> Vec<u8> {
        let json = match self {
            Self::Result(result) => serde_json::json!({ "state": true, "result": result }),
            Self::Nothing => serde_json::json!({ "state": false, "result": null }),
            Self::Error(text) => serde_json::json!({ "state": false, "result": text }),
        };
        json.to_string().into_bytes()
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// It is no JSON of this shape.
    pub fn decode(message: &[u8]) -> Result<Self, DataError> {
        let raw: RawReply = serde_json::from_slice(message)
            .map_err(|e| DataError::new(r#"{"state":true|false,"result":…}"#, e, message))?;
        Ok(match (raw.state, raw.result) {
            (true, result) => Self::Result(result),
            (false, Value::Null) => Self::Nothing,
            (false, Value::String(text)) => Self::Error(text),
            (false, other) => Self::Error(other.to_string()),
        })
    }
}

#[derive(Deserialize)]
struct RawSourceMessage {
    message: Option<Object>,
    meta: Option<Object>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct RawAck {
    error: Option<String>,
}

#[derive(Deserialize)]
struct RawCall {
    func: String,
    arg: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct RawReply {
    state: bool,
    #[serde(default)]
    result: Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn tuples_with_and_without_meta_are_read() {
        let tuple = SourceMessage::decode(br#"{"message":{"a":1},"meta":null}"#).unwrap();
        assert_eq!(
            tuple,
            SourceMessage::Tuple {
                message: object(json!({"a": 1})),
                meta: Object::new()
            }
        );
        let tuple = SourceMessage::decode(br#"{"message":{},"meta":{"topic":"t"}}"#).unwrap();
        assert_eq!(
            tuple,
            SourceMessage::Tuple {
                message: Object::new(),
                meta: object(json!({"topic": "t"}))
            }
        );
    }

    #[test]
    fn errors_are_read_as_both_sdks_write_them() {
        let plain = SourceMessage::decode(br#"{"error":"no route"}"#).unwrap();
        let wrapped = SourceMessage::decode(br#""{\"error\":\"no route\"}""#).unwrap();
        assert_eq!(
            (&plain, &wrapped),
            (&wrapped, &SourceMessage::Error("no route".to_owned()))
        );
    }

    #[test]
    fn garbage_is_refused_with_its_beginning() {
        for garbage in [
            &b"\xff\xfe"[..],
            b"",
            b"[1]",
            b"{}",
            b"nope",
            br#"{"message":[1]}"#,
            br#""x""#,
        ] {
            let error = SourceMessage::decode(garbage).unwrap_err().to_string();
            assert!(error.starts_with(r#"expected {"message""#), "{error}");
        }
    }

    #[test]
    fn the_context_of_a_call_is_its_last_argument_as_text() {
        let context = FunctionContext {
            rule_id: "r".parse().unwrap(),
            op_id: "o".parse().unwrap(),
            instance_id: 0,
            func_id: 2,
        };
        let call = FunctionCall::Exec {
            args: vec![json!("a"), json!(1)],
            context,
        };
        let sent: Value = serde_json::from_slice(&call.encode()).unwrap();
        assert_eq!(sent["arg"][0], "a");
        assert_eq!(
            sent["arg"][2],
            r#"{"ruleId":"r","opId":"o","instanceId":0,"funcId":2}"#
        );
        assert_eq!(FunctionCall::decode(&call.encode()).unwrap(), call);
    }

    #[test]
    fn replies_tell_a_result_an_error_and_nothing() {
        let read = |text: &str| FunctionReply::decode(text.as_bytes()).unwrap();
        assert_eq!(
            read(r#"{"state":true,"result":[1]}"#),
            FunctionReply::Result(json!([1]))
        );
        assert_eq!(read(r#"{"state":true}"#), FunctionReply::Result(Value::Null));
        assert_eq!(read(r#"{"state":false,"result":null}"#), FunctionReply::Nothing);
        assert_eq!(
            read(r#"{"state":false,"result":"bad"}"#),
            FunctionReply::Error("bad".to_owned())
        );
        assert_eq!(
            read(r#"{"state":false,"result":{"a":1}}"#),
            FunctionReply::Error(r#"{"a":1}"#.to_owned())
        );
    }

    #[test]
    fn acknowledgements_survive_the_round_trip() {
        for ack in [Ok(()), Err("disk full".to_owned())] {
            assert_eq!(decode_ack(&encode_ack(&ack)).unwrap(), ack);
        }
        assert!(decode_ack(b"ok").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = SourceMessage::decode(&bytes);
            let _ = decode_ack(&bytes);
            let _ = FunctionCall::decode(&bytes);
            let _ = FunctionReply::decode(&bytes);
        }

        #[test]
        fn tuples_survive_the_round_trip(key in any::<String>(), text in any::<String>(), number in any::<i64>()) {
            let message = object(json!({ &key: text, "n": number }));
            let sent = SourceMessage::Tuple { message, meta: Object::new() };
            prop_assert_eq!(SourceMessage::decode(&sent.encode()).unwrap(), sent);
        }
    }
}
