//! Owns what a sink is sent: batches of results.

use serde::Deserialize;

use super::{append_number, limited, separate};
use crate::data::DataError;

const EXPECTED: &str = r#"{"seq":…,"results":[…]}"#;

/// One message to a sink, its results as the reader wants them: `serde_json::Value`, or `&RawValue` for the text
/// in which they were sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct SinkBatch<T> {
    /// Counts 1, 2, 3… in one use of one process.
    pub seq: u64,
    /// Each is what a sink gets for one result of the rule: an array of rows, or one object.
    #[serde(deserialize_with = "limited::list")]
    pub results: Vec<T>,
}

impl<'a, T: Deserialize<'a>> SinkBatch<T> {
    /// Reads a message.
    ///
    /// # Errors
    /// It is no JSON of this shape.
    pub fn decode(message: &'a [u8]) -> Result<Self, DataError> {
        serde_json::from_slice(message).map_err(|error| DataError::new(EXPECTED, error, message))
    }
}

/// Writes a batch of results, one after the other.
#[derive(Clone, Debug, Default)]
pub struct SinkWriter {
    results: Vec<u8>,
    len: usize,
}

impl SinkWriter {
    /// Adds a result that is JSON already. What is not, makes the whole message broken.
    pub fn push(&mut self, json: &[u8]) {
        separate(&mut self.results, self.len == 0);
        self.results.extend_from_slice(json);
        self.len += 1;
    }

    /// How many results it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes the message will have.
    pub fn size(&self) -> usize {
        self.results.len() + 48
    }

    /// The message; the writer is empty again.
    pub fn finish(&mut self, seq: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.size());
        message.extend_from_slice(br#"{"seq":"#);
        append_number(&mut message, seq);
        message.extend_from_slice(br#","results":["#);
        message.append(&mut self.results);
        message.extend_from_slice(b"]}");
        self.len = 0;
        message
    }
}
