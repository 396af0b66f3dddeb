//! Owns what goes over the channel of a function: calls, their cancellation, and results.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{append, append_number, limited, separate};
use crate::data::DataError;
pub use crate::data::FunctionContext;

/// What the host sends, its arguments as the reader wants them: `Vec<Value>`, or `&RawValue`.
#[derive(Clone, Debug, PartialEq)]
pub enum ToFunction<A> {
    /// Calls that share one context.
    Calls {
        /// For which call site.
        context: FunctionContext,
        /// How long the host waits, in milliseconds, from when the message was sent.
        timeout: u64,
        /// The id and the arguments of each.
        calls: Vec<(u64, A)>,
    },
    /// Nobody waits for these any more.
    Cancel(Vec<u64>),
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "A: Deserialize<'de>"))]
struct RawCalls<A> {
    context: Option<FunctionContext>,
    #[serde(default)]
    timeout: u64,
    #[serde(default = "none", deserialize_with = "limited::some_list")]
    calls: Option<Vec<(u64, A)>>,
    #[serde(default = "none", deserialize_with = "limited::some_list")]
    cancel: Option<Vec<u64>>,
}

fn none<T>() -> Option<Vec<T>> {
    None
}

impl<'a, A: Deserialize<'a>> ToFunction<A> {
    /// Reads what a host sent.
    ///
    /// # Errors
    /// It is neither calls nor a cancellation.
    pub fn decode(message: &'a [u8]) -> Result<Self, DataError> {
        const EXPECTED: &str = r#"{"context":{…},"timeout":…,"calls":[[1,[…]]]} or {"cancel":[1]}"#;
        let wrong = |reason: String| DataError::new(EXPECTED, reason, message);
        let raw: RawCalls<A> = serde_json::from_slice(message).map_err(|error| wrong(error.to_string()))?;
        match raw {
            RawCalls {
                calls: Some(calls),
                context,
                timeout,
                ..
            } => Ok(Self::Calls {
                context: context.ok_or_else(|| wrong("it has no \"context\"".to_owned()))?,
                timeout,
                calls,
            }),
            RawCalls {
                cancel: Some(cancel), ..
            } => Ok(Self::Cancel(cancel)),
            _ => Err(wrong("it has neither \"calls\" nor \"cancel\"".to_owned())),
        }
    }
}

/// Writes calls that share one context, one after the other.
#[derive(Clone, Debug, Default)]
pub struct CallWriter {
    calls: Vec<u8>,
    len: usize,
    /// Where the last call begins.
    last: usize,
}

impl CallWriter {
    /// Adds a call.
    pub fn push(&mut self, id: u64, args: &[Value]) {
        self.push_with(id, |calls| {
            // A tree of JSON values does not fail to be written.
            let _ = append(calls, args);
        });
    }

    /// Adds a call whose arguments are a JSON array already. What is none, makes the whole message broken.
    pub fn push_json(&mut self, id: u64, args: &[u8]) {
        self.push_with(id, |calls| calls.extend_from_slice(args));
    }

    fn push_with(&mut self, id: u64, write: impl FnOnce(&mut Vec<u8>)) {
        self.last = self.calls.len();
        separate(&mut self.calls, self.len == 0);
        self.calls.push(b'[');
        append_number(&mut self.calls, id);
        self.calls.push(b',');
        write(&mut self.calls);
        self.calls.push(b']');
        self.len += 1;
    }

    /// Takes the last call back: once after each [`CallWriter::push`].
    pub fn undo(&mut self) {
        if self.calls.len() > self.last {
            self.calls.truncate(self.last);
            self.len -= 1;
        }
    }

    /// How many calls it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes the message will have.
    pub fn size(&self) -> usize {
        self.calls.len() + 256
    }

    /// The message; the writer is empty again. `timeout` in milliseconds.
    pub fn finish(&mut self, context: &FunctionContext, timeout: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.size());
        message.extend_from_slice(br#"{"context":"#);
        // Names and numbers do not fail to be written.
        let _ = append(&mut message, context);
        message.extend_from_slice(br#","timeout":"#);
        append_number(&mut message, timeout);
        message.extend_from_slice(br#","calls":["#);
        message.append(&mut self.calls);
        message.extend_from_slice(b"]}");
        (self.len, self.last) = (0, 0);
        message
    }
}

/// The message that says for which calls nobody waits any more.
pub fn encode_cancel(ids: &[u64]) -> Vec<u8> {
    serde_json::json!({ "cancel": ids }).to_string().into_bytes()
}

/// What a function answers, its results as the reader wants them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
pub struct Results<R> {
    /// The id and the result of calls that succeeded.
    #[serde(default = "Vec::new", deserialize_with = "limited::list")]
    pub results: Vec<(u64, R)>,
    /// The id and the error of calls that failed.
    #[serde(default, deserialize_with = "limited::list")]
    pub errors: Vec<(u64, String)>,
}

impl<'a, R: Deserialize<'a>> Results<R> {
    /// Reads what a plugin sent. `limit`: the most results and errors together that were agreed on.
    ///
    /// # Errors
    /// It is no JSON of this shape, or has too many items.
    pub fn decode(message: &'a [u8], limit: usize) -> Result<Self, DataError> {
        const EXPECTED: &str = r#"{"results":[[1,…]],"errors":[[2,"…"]]}"#;
        let wrong = |reason: String| DataError::new(EXPECTED, reason, message);
        let read: Self = serde_json::from_slice(message).map_err(|error| wrong(error.to_string()))?;
        let found = read.results.len() + read.errors.len();
        if found > limit {
            return Err(wrong(format!(
                "it has {found} results; at most {limit} are allowed"
            )));
        }
        Ok(read)
    }
}

/// Writes results and errors, one after the other.
#[derive(Clone, Debug, Default)]
pub struct ResultWriter {
    results: Vec<u8>,
    errors: Vec<u8>,
    len: usize,
}

impl ResultWriter {
    /// Adds a result.
    ///
    /// # Errors
    /// It cannot be written as JSON; then nothing is added.
    pub fn push<R: Serialize + ?Sized>(&mut self, id: u64, result: &R) -> Result<(), serde_json::Error> {
        write_pair(&mut self.results, id, result)?;
        self.len += 1;
        Ok(())
    }

    /// Adds an error.
    pub fn push_error(&mut self, id: u64, error: &str) {
        // A text does not fail to be written.
        let _ = write_pair(&mut self.errors, id, error);
        self.len += 1;
    }

    /// How many results and errors it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes the message will have.
    pub fn size(&self) -> usize {
        self.results.len() + self.errors.len() + 32
    }

    /// The message; the writer is empty again.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.size());
        message.push(b'{');
        let both = [
            ("\"results\":[", &mut self.results),
            ("\"errors\":[", &mut self.errors),
        ];
        for (name, items) in both {
            if !items.is_empty() {
                let is_first = message.len() == 1;
                separate(&mut message, is_first);
                message.extend_from_slice(name.as_bytes());
                message.append(items);
                message.push(b']');
            }
        }
        message.push(b'}');
        self.len = 0;
        message
    }
}

fn write_pair<R: Serialize + ?Sized>(
    buffer: &mut Vec<u8>,
    id: u64,
    value: &R,
) -> Result<(), serde_json::Error> {
    let before = buffer.len();
    separate(buffer, buffer.is_empty());
    buffer.push(b'[');
    append_number(buffer, id);
    buffer.push(b',');
    append(buffer, value).inspect_err(|_| buffer.truncate(before))?;
    buffer.push(b']');
    Ok(())
}
