//! Owns what an author implements to take results out, and the message that it receives.

use bytes::Bytes;
use mangrove_protocol::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Context, Result};

/// Takes results out. One value is opened per use, that is per action of a rule.
///
/// ```
/// use mangrove_sdk::{Context, Message, Result, Sink};
/// use serde::Deserialize;
/// use tokio::io::AsyncWriteExt;
///
/// #[derive(Deserialize)]
/// struct Settings {
///     path: String,
/// }
///
/// struct Append(tokio::fs::File);
///
/// impl Sink for Append {
///     type Config = Settings;
///
///     async fn open(settings: Settings, _: &Context) -> Result<Self> {
///         Ok(Self(tokio::fs::File::options().append(true).create(true).open(settings.path).await?))
///     }
///
///     async fn collect(&mut self, message: Message, _: &Context) -> Result {
///         self.0.write_all(message.as_bytes()).await?;
///         self.0.write_all(b"\n").await?;
///         Ok(self.0.flush().await?)
///     }
/// }
/// ```
pub trait Sink: Sized + Send + 'static {
    /// The properties of the action, read with serde. Hosts add properties of their own: don't deny unknown
    /// fields. `Value` or [`Object`] takes them as they are.
    type Config: DeserializeOwned + Send;

    /// Checks the configuration and takes hold of what is needed. The host waits for it: its error is the
    /// reason that the host shows for a sink that doesn't start.
    ///
    /// # Errors
    /// Whatever is in the way.
    fn open(config: Self::Config, context: &Context) -> impl Future<Output = Result<Self>> + Send;

    /// Takes one message, one at a time and in order. When it has returned, the message is acknowledged to the
    /// host, with the error if there is one: return when the message is safe, not earlier.
    ///
    /// A panic counts as an error of this message; the sink goes on with the next one.
    ///
    /// # Errors
    /// The message was not taken. With `requireAck` the rule sees the error; the sink goes on.
    fn collect(&mut self, message: Message, context: &Context) -> impl Future<Output = Result> + Send;

    /// Called when the sink has to stop, after the last message.
    ///
    /// # Errors
    /// They are logged.
    fn close(self, _context: &Context) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }
}

/// What a sink receives: the encoded result of a rule, by default a JSON array of objects (with `sendSingle` one
/// object).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
}

impl Message {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as they came, without copying them. They may share memory with the rest of the batch that they came in:
    /// copy what is kept for long.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The message as JSON.
    ///
    /// # Errors
    /// It is no JSON, or not of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(&self.bytes)?)
    }

    /// The rows of the result, whether they came as an array or as a single object.
    ///
    /// # Errors
    /// It is neither an object nor an array of objects.
    pub fn rows(&self) -> Result<Vec<Object>> {
        match self.json()? {
            Value::Object(row) => Ok(vec![row]),
            rows => Ok(serde_json::from_value(rows)?),
        }
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self { bytes }
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into() }
    }
}

impl From<&'static str> for Message {
    fn from(text: &'static str) -> Self {
        Self {
            bytes: Bytes::from_static(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_arrays_and_from_single_objects() {
        let rows = |text: &'static str| Message::from(text).rows();
        assert_eq!(rows(r#"[{"a":1},{"a":2}]"#).unwrap().len(), 2);
        assert_eq!(rows(r#"{"a":1}"#).unwrap()[0]["a"], 1);
        assert!(rows("[1]").is_err());
        assert!(rows("nope").is_err());
    }
}
