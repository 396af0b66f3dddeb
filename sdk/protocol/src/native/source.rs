//! Owns what a source sends: batches of tuples, errors, and its own end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{append, append_number, limited, separate};
use crate::data::DataError;
use crate::{Fields, Object};

const EXPECTED: &str = r#"{"seq":…,"tuples":[{…}]}, {"seq":…,"error":"…"} or {"seq":…,"end":true}"#;

/// One message of a source, its tuples as the reader wants them.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceBatch<T> {
    /// Counts 1, 2, 3… in one use of one process.
    pub seq: u64,
    /// What it brings.
    pub content: SourceContent<T>,
}

/// What a message of a source brings.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceContent<T> {
    /// Tuples.
    Tuples {
        /// The tuples.
        tuples: Vec<T>,
        /// What the source says about each of them; empty, or as long as `tuples`.
        meta: Vec<Option<Object>>,
        /// What lets the source go on behind this batch.
        offset: Option<Value>,
    },
    /// An error that the source survives.
    Error(String),
    /// It ends by itself, with or without a reason.
    End(Option<String>),
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Raw<T> {
    seq: u64,
    #[serde(default = "none", deserialize_with = "limited::some_list")]
    tuples: Option<Vec<T>>,
    #[serde(default, deserialize_with = "limited::list")]
    meta: Vec<Option<Object>>,
    #[serde(default)]
    offset: Option<Value>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    end: bool,
}

fn none<T>() -> Option<Vec<T>> {
    None
}

impl SourceBatch<Object> {
    /// Reads a message, its tuples as objects. `limit`: the most tuples that were agreed on.
    ///
    /// # Errors
    /// It is none of the three kinds of messages, or has too many tuples.
    pub fn decode(message: &[u8], limit: usize) -> Result<Self, DataError> {
        read(message, limit)
    }
}

impl SourceBatch<Fields> {
    /// Reads a message, its tuples as slices of it into which nobody has looked. `limit`: the most tuples that were agreed
    /// on.
    ///
    /// # Errors
    /// It is none of the three kinds of messages, has too many tuples, or one that is no object which every reader could
    /// read.
    pub fn decode_fields(message: &Bytes, limit: usize) -> Result<Self, DataError> {
        let SourceBatch { seq, content } = read::<&RawValue>(message, limit)?;
        let content = match content {
            SourceContent::Tuples { tuples, meta, offset } => {
                let fields = |tuple: &RawValue| {
                    if !tuple.get().starts_with('{') {
                        return Err(DataError::new(EXPECTED, "a tuple is no object", message));
                    }
                    Fields::from_text(message.slice_ref(tuple.get().as_bytes()))
                        .map_err(|error| DataError::new(EXPECTED, error, message))
                };
                SourceContent::Tuples {
                    tuples: tuples.into_iter().map(fields).collect::<Result<_, _>>()?,
                    meta,
                    offset,
                }
            }
            SourceContent::Error(error) => SourceContent::Error(error),
            SourceContent::End(reason) => SourceContent::End(reason),
        };
        Ok(Self { seq, content })
    }
}

fn read<'a, T: Deserialize<'a>>(message: &'a [u8], limit: usize) -> Result<SourceBatch<T>, DataError> {
    let wrong = |reason: String| DataError::new(EXPECTED, reason, message);
    let raw: Raw<T> = serde_json::from_slice(message).map_err(|error| wrong(error.to_string()))?;
    let content = match raw {
        Raw { end: true, error, .. } => SourceContent::End(error),
        Raw {
            error: Some(error), ..
        } => SourceContent::Error(error),
        Raw {
            tuples: Some(tuples),
            meta,
            offset,
            ..
        } => {
            if tuples.len() > limit {
                let found = tuples.len();
                return Err(wrong(format!(
                    "it has {found} tuples; at most {limit} are allowed"
                )));
            }
            if !meta.is_empty() && meta.len() != tuples.len() {
                let (meta, tuples) = (meta.len(), tuples.len());
                return Err(wrong(format!(
                    "it has {tuples} tuples and {meta} items in \"meta\""
                )));
            }
            SourceContent::Tuples { tuples, meta, offset }
        }
        _ => {
            return Err(wrong(
                "it has neither \"tuples\" nor \"error\" nor \"end\"".to_owned(),
            ));
        }
    };
    Ok(SourceBatch {
        seq: raw.seq,
        content,
    })
}

/// Writes a batch of tuples, one after the other.
#[derive(Clone, Debug, Default)]
pub struct SourceWriter {
    tuples: Vec<u8>,
    meta: Vec<u8>,
    len: usize,
    has_meta: bool,
}

impl SourceWriter {
    /// Adds a tuple: anything that is written as a JSON object.
    ///
    /// # Errors
    /// The tuple or its meta cannot be written as JSON; then nothing is added.
    pub fn push<T: Serialize + ?Sized>(
        &mut self,
        tuple: &T,
        meta: Option<&Object>,
    ) -> Result<(), serde_json::Error> {
        let (tuples, metas) = (self.tuples.len(), self.meta.len());
        separate(&mut self.tuples, self.len == 0);
        separate(&mut self.meta, self.len == 0);
        let written = append(&mut self.tuples, tuple).and_then(|()| append(&mut self.meta, &meta));
        if let Err(error) = written {
            self.tuples.truncate(tuples);
            self.meta.truncate(metas);
            return Err(error);
        }
        self.has_meta |= meta.is_some();
        self.len += 1;
        Ok(())
    }

    /// Adds a tuple that is JSON already, and so is its meta. What is not, makes the whole message broken.
    pub fn push_json(&mut self, tuple: &[u8], meta: Option<&[u8]>) {
        separate(&mut self.tuples, self.len == 0);
        separate(&mut self.meta, self.len == 0);
        self.tuples.extend_from_slice(tuple);
        self.meta.extend_from_slice(meta.unwrap_or(b"null"));
        self.has_meta |= meta.is_some();
        self.len += 1;
    }

    /// How many tuples it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes the message will have.
    pub fn size(&self) -> usize {
        self.tuples.len() + if self.has_meta { self.meta.len() } else { 0 } + 64
    }

    /// The message; the writer is empty again.
    pub fn finish(&mut self, seq: u64, offset: Option<&Value>) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.size());
        message.extend_from_slice(br#"{"seq":"#);
        append_number(&mut message, seq);
        message.extend_from_slice(br#","tuples":["#);
        message.append(&mut self.tuples);
        message.push(b']');
        if self.has_meta {
            message.extend_from_slice(br#","meta":["#);
            message.append(&mut self.meta);
            message.push(b']');
        }
        if let Some(offset) = offset {
            message.extend_from_slice(br#","offset":"#);
            // A tree of JSON values does not fail to be written.
            let _ = append(&mut message, offset);
        }
        message.push(b'}');
        self.meta.clear();
        self.len = 0;
        self.has_meta = false;
        message
    }
}

/// The message of an error that the source survives.
pub fn encode_error(seq: u64, error: &str) -> Vec<u8> {
    serde_json::json!({ "seq": seq, "error": error })
        .to_string()
        .into_bytes()
}

/// The message of a source that ends by itself.
pub fn encode_end(seq: u64, error: Option<&str>) -> Vec<u8> {
    let message = match error {
        None => serde_json::json!({ "seq": seq, "end": true }),
        Some(error) => serde_json::json!({ "seq": seq, "end": true, "error": error }),
    };
    message.to_string().into_bytes()
}
