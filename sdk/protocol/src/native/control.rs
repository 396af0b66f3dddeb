//! Owns the messages of the control channel, both directions. A *request* has an id and is answered once, in any
//! order; each side counts its own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::UseNumber;
use super::limited;
use super::opening::{Hello, Refused, Welcome};
use crate::Object;
use crate::data::DataError;
use crate::name::{OpId, RuleId, SymbolName};

/// What the host sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ToPlugin {
    /// The plugin is taken.
    Welcome(Welcome),
    /// The plugin is not taken.
    Refused(Refused),
    /// Request: run a symbol. Answer: null.
    Start(u64, Box<Start>),
    /// Request: are these arguments acceptable? Answer: null, or the error that says why not.
    Validate(u64, Validate),
    /// Request: end a symbol. Answer: for a source [`Stopped`], else null.
    Stop(u64, Stop),
    /// Request: are you there? Answer: null.
    Ping(u64),
    /// End every symbol, then the process.
    Shutdown(Shutdown),
    /// Nothing up to and including this batch of the source is needed again.
    Commit(Commit),
    /// The answer to a request of the plugin.
    Answer(Answer),
    /// A later version's; answered with an error when it has an id, else ignored.
    Unknown(Unknown),
}

/// What the plugin sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ToHost {
    /// The first message.
    Hello(Hello),
    /// Request about the state of a symbol in a rule.
    State(u64, StateRequest),
    /// Request: are you there? Answer: null.
    Ping(u64),
    /// The answer to a request of the host.
    Answer(Answer),
    /// Results that a sink has taken.
    Ack(Ack),
    /// An error that the symbol survives.
    Error(ErrorNote),
    /// Something for the log.
    Log(Log),
    /// A figure.
    Metric(Metric),
    /// A later version's; answered with an error when it has an id, else ignored.
    Unknown(Unknown),
}

/// A message of an unknown type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its type.
    pub kind: String,
    /// Its id, when it is a request.
    pub id: Option<u64>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// The value, or why there is none.
    pub outcome: Result<Value, String>,
}

/// What a symbol needs to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The use's number.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// The symbol.
    pub symbol: SymbolName,
    /// What it is, and for whom it runs.
    #[serde(flatten)]
    pub role: Role,
    /// Where the host listens for the data channel.
    pub address: String,
}

/// What a symbol is, with what only that kind needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Role {
    /// A source.
    Source {
        /// For whom.
        #[serde(flatten)]
        place: Place,
        /// The stream's `DATASOURCE`.
        #[serde(default)]
        data_source: String,
        /// The properties of the conf key.
        #[serde(default)]
        config: Object,
        /// Where to go on: what came with the last batch whose results are safe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<Value>,
    },
    /// A sink.
    Sink {
        /// For whom.
        #[serde(flatten)]
        place: Place,
        /// The properties of the rule's action.
        #[serde(default)]
        config: Object,
        /// Whether it has to acknowledge.
        #[serde(default)]
        ack: bool,
    },
    /// A function, for all rules.
    Function,
}

/// For which use a source or a sink runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The rule.
    pub rule_id: RuleId,
    /// The operator in the rule.
    pub op_id: OpId,
    /// The operator's instance, from 0.
    #[serde(default)]
    pub instance_id: u32,
}

/// The arguments of a call of a function, as they stand in the SQL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validate {
    /// The function.
    pub symbol: SymbolName,
    /// Literals as values, everything else as its SQL text.
    #[serde(deserialize_with = "limited::list")]
    pub args: Vec<Value>,
}

/// The end of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The use.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// How long the host waits for the answer, in milliseconds.
    pub timeout: u64,
    /// For a sink: the last batch that was sent to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// What a source answers to [`Stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Its last batch; 0: there was none.
    pub seq: u64,
}

/// The end of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// How long the host waits for the process to end, in milliseconds.
    pub timeout: u64,
}

/// What a source need not keep any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The use.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// The last batch that is safe.
    pub seq: u64,
}

/// What a sink has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The use.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// Everything up to and including this batch is done with.
    pub seq: u64,
    /// The results of this batch that failed: index and why.
    #[serde(
        default,
        deserialize_with = "limited::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub errors: Vec<(u32, String)>,
}

/// An error that a symbol survives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// The use.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// What is wrong.
    pub error: String,
}

/// Something for the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// How important it is.
    pub level: Level,
    /// What there is to say.
    pub message: String,
    /// The use that says it, if it is one.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub number: Option<UseNumber>,
    /// More of it.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub fields: Object,
}

/// How important a line of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For whoever looks for a fault, very much of it.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// For the operator.
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something has failed.
    Error,
}

/// A figure of a symbol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The use.
    #[serde(rename = "use")]
    pub number: UseNumber,
    /// What is counted or measured.
    pub name: String,
    /// What `value` means.
    pub kind: MetricKind,
    /// The figure.
    pub value: f64,
}

/// What the value of a metric means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// It is added to what there is.
    Counter,
    /// It replaces what there is.
    Gauge,
}

/// A request about the state of a symbol in a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct StateRequest {
    /// The use.
    pub number: UseNumber,
    /// For a function: the rule.
    pub rule: Option<RuleId>,
    /// The key, 1 to [`MAX_KEY_LEN`](super::MAX_KEY_LEN) bytes.
    pub key: String,
    /// What is wanted.
    pub operation: StateOperation,
}

/// What is wanted of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum StateOperation {
    /// Answer: the value, or null.
    Get,
    /// Answer: null.
    Put(Value),
    /// Answer: null.
    Delete,
    /// Answer: the new number; a missing key counts as 0.
    Add(Number),
}

/// A message as it is written: its type, its id, its body.
#[derive(Serialize)]
struct Tagged<'a, B> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    body: B,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    id: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct RawAnswer {
    #[serde(default, skip_serializing_if = "Value::is_null")]
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RawState {
    #[serde(rename = "use")]
    number: UseNumber,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<RuleId>,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Number>,
}

/// Writes a message. A tree of JSON values cannot fail to be written.
fn encode<B: Serialize>(kind: &str, id: Option<u64>, body: B) -> Vec<u8> {
    let message = Tagged {
        r#type: kind,
        id,
        body,
    };
    serde_json::to_vec(&message).unwrap_or_default()
}

/// Reads the body of a message whose head was read before.
struct Reader<'a> {
    message: &'a [u8],
    expected: &'static str,
    id: Option<u64>,
}

impl<'a> Reader<'a> {
    fn body<T: Deserialize<'a>>(&mut self, expected: &'static str) -> Result<T, DataError> {
        self.expected = expected;
        serde_json::from_slice(self.message).map_err(|error| self.wrong(error))
    }

    /// The id that a request must have.
    fn id(&self) -> Result<u64, DataError> {
        self.id.ok_or_else(|| self.wrong("it has no \"id\""))
    }

    fn wrong(&self, reason: impl ToString) -> DataError {
        DataError::new(self.expected, reason, shown(self.message))
    }

    fn answer(&mut self) -> Result<Answer, DataError> {
        let RawAnswer { value, error } = self.body(ANSWER)?;
        let outcome = error.map_or(Ok(value), Err);
        Ok(Answer {
            id: self.id()?,
            outcome,
        })
    }

    fn state(&mut self, kind: &str) -> Result<StateRequest, DataError> {
        let raw: RawState = self.body(STATE)?;
        let operation = match kind {
            "get" => StateOperation::Get,
            "put" => StateOperation::Put(raw.value.unwrap_or_default()),
            "delete" => StateOperation::Delete,
            _ => StateOperation::Add(raw.by.ok_or_else(|| self.wrong("it has no \"by\""))?),
        };
        Ok(StateRequest {
            number: raw.number,
            rule: raw.rule,
            key: raw.key,
            operation,
        })
    }
}

const MESSAGE: &str = r#"{"type":"…",…}"#;
const ANSWER: &str = r#"{"type":"answer","id":…,"value":…} or {…,"error":"…"}"#;
const STATE: &str = r#"{"type":"get"|"put"|"delete"|"add","id":…,"use":…,"key":"…",…}"#;

fn read_head(message: &[u8]) -> Result<(Cow<'_, str>, Reader<'_>), DataError> {
    let head: Head<'_> =
        serde_json::from_slice(message).map_err(|error| DataError::new(MESSAGE, error, shown(message)))?;
    let reader = Reader {
        message,
        expected: MESSAGE,
        id: head.id,
    };
    Ok((head.r#type, reader))
}

/// What an error may repeat of a message: nothing that may hold a token.
fn shown(message: &[u8]) -> &[u8] {
    const SECRET: &[u8] = b"token";
    if message.windows(SECRET.len()).any(|part| part == SECRET) {
        b"(not shown: it has a token)"
    } else {
        message
    }
}

impl Answer {
    fn encode(&self) -> Vec<u8> {
        let (value, error) = match &self.outcome {
            Ok(value) => (value.clone(), None),
            Err(error) => (Value::Null, Some(error.clone())),
        };
        encode("answer", Some(self.id), RawAnswer { value, error })
    }
}

impl ToPlugin {
    /// The bytes of this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome(body) => encode("welcome", None, body),
            Self::Refused(body) => encode("refused", None, body),
            Self::Start(id, body) => encode("start", Some(*id), body),
            Self::Validate(id, body) => encode("validate", Some(*id), body),
            Self::Stop(id, body) => encode("stop", Some(*id), body),
            Self::Ping(id) => encode("ping", Some(*id), Empty {}),
            Self::Shutdown(body) => encode("shutdown", None, body),
            Self::Commit(body) => encode("commit", None, body),
            Self::Answer(answer) => answer.encode(),
            Self::Unknown(Unknown { kind, id }) => encode(kind, *id, Empty {}),
        }
    }

    /// Reads what a host sent.
    ///
    /// # Errors
    /// It is no JSON object with a `type`, or a field is missing or wrong.
    pub fn decode(message: &[u8]) -> Result<Self, DataError> {
        let (kind, mut reader) = read_head(message)?;
        Ok(match kind.as_ref() {
            "welcome" => Self::Welcome(reader.body(r#"{"type":"welcome","version":1,…}"#)?),
            "refused" => Self::Refused(reader.body(r#"{"type":"refused","reason":"…"}"#)?),
            "start" => {
                let body = reader.body(
                    r#"{"type":"start","id":…,"use":…,"kind":"source"|"sink"|"function","symbol":"…","address":"…",…}"#,
                )?;
                Self::Start(reader.id()?, body)
            }
            "validate" => {
                let body = reader.body(r#"{"type":"validate","id":…,"symbol":"…","args":[…]}"#)?;
                Self::Validate(reader.id()?, body)
            }
            "stop" => {
                let body = reader.body(r#"{"type":"stop","id":…,"use":…,"timeout":…}"#)?;
                Self::Stop(reader.id()?, body)
            }
            "ping" => Self::Ping(reader.id()?),
            "shutdown" => Self::Shutdown(reader.body(r#"{"type":"shutdown","timeout":…}"#)?),
            "commit" => Self::Commit(reader.body(r#"{"type":"commit","use":…,"seq":…}"#)?),
            "answer" => Self::Answer(reader.answer()?),
            _ => Self::Unknown(Unknown {
                kind: kind.into_owned(),
                id: reader.id,
            }),
        })
    }
}

impl ToPlugin {
    /// The id of a request, also of one that cannot be read otherwise: it is to be answered all the same.
    pub fn request_id(message: &[u8]) -> Option<u64> {
        let (kind, reader) = read_head(message).ok()?;
        reader.id.filter(|_| kind != "answer")
    }
}

impl ToHost {
    /// The bytes of this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(body) => encode("hello", None, body),
            Self::State(id, request) => {
                let (kind, value, by) = match &request.operation {
                    StateOperation::Get => ("get", None, None),
                    StateOperation::Put(value) => ("put", Some(value.clone()), None),
                    StateOperation::Delete => ("delete", None, None),
                    StateOperation::Add(by) => ("add", None, Some(by.clone())),
                };
                let body = RawState {
                    number: request.number,
                    rule: request.rule.clone(),
                    key: request.key.clone(),
                    value,
                    by,
                };
                encode(kind, Some(*id), body)
            }
            Self::Ping(id) => encode("ping", Some(*id), Empty {}),
            Self::Answer(answer) => answer.encode(),
            Self::Ack(body) => encode("ack", None, body),
            Self::Error(body) => encode("error", None, body),
            Self::Log(body) => encode("log", None, body),
            Self::Metric(body) => encode("metric", None, body),
            Self::Unknown(Unknown { kind, id }) => encode(kind, *id, Empty {}),
        }
    }

    /// Reads what a plugin sent.
    ///
    /// # Errors
    /// It is no JSON object with a `type`, or a field is missing or wrong.
    pub fn decode(message: &[u8]) -> Result<Self, DataError> {
        let (kind, mut reader) = read_head(message)?;
        Ok(match kind.as_ref() {
            "hello" => Self::Hello(
                reader.body(r#"{"type":"hello","versions":[1],"token":"…","plugin":"…","symbols":{…}}"#)?,
            ),
            "get" | "put" | "delete" | "add" => {
                let request = reader.state(&kind)?;
                Self::State(reader.id()?, request)
            }
            "ping" => Self::Ping(reader.id()?),
            "answer" => Self::Answer(reader.answer()?),
            "ack" => Self::Ack(reader.body(r#"{"type":"ack","use":…,"seq":…,"errors":[[…,"…"]]}"#)?),
            "error" => Self::Error(reader.body(r#"{"type":"error","use":…,"error":"…"}"#)?),
            "log" => Self::Log(reader.body(r#"{"type":"log","level":"…","message":"…"}"#)?),
            "metric" => Self::Metric(
                reader.body(r#"{"type":"metric","use":…,"name":"…","kind":"counter"|"gauge","value":…}"#)?,
            ),
            _ => Self::Unknown(Unknown {
                kind: kind.into_owned(),
                id: reader.id,
            }),
        })
    }
}
