//! Owns what an author implements to bring data in, and the way out for its tuples.

use mangrove_protocol::Object;
use mangrove_protocol::data::SourceMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::error::describe;
use crate::{Context, Error, Result};

/// Brings data in. One value is opened per use, that is per stream and rule (or per shared stream).
///
/// ```
/// use mangrove_sdk::{Context, Output, Result, Source, Tuple};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// #[derive(Deserialize)]
/// #[serde(default)]
/// struct Settings {
///     interval: u64,
/// }
/// impl Default for Settings {
///     fn default() -> Self {
///         Self { interval: 1000 }
///     }
/// }
///
/// #[derive(Serialize)]
/// struct Tick<'a> {
///     topic: &'a str,
///     count: u64,
/// }
///
/// struct Ticker {
///     topic: String,
///     interval: Duration,
/// }
///
/// impl Source for Ticker {
///     type Config = Settings;
///
///     async fn open(data_source: String, settings: Settings, _: &Context) -> Result<Self> {
///         Ok(Self { topic: data_source, interval: Duration::from_millis(settings.interval) })
///     }
///
///     async fn run(self, output: Output, context: Context) -> Result {
///         let mut ticks = tokio::time::interval(self.interval);
///         let mut count = 0;
///         while context.until_cancelled(ticks.tick()).await.is_some() {
///             output.send(Tuple::new(&Tick { topic: &self.topic, count })?).await?;
///             count += 1;
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Source: Sized + Send + 'static {
    /// The properties of the stream's conf key, read with serde. Hosts add properties of their own: don't deny
    /// unknown fields. `Value` or [`Object`] takes them as they are.
    type Config: DeserializeOwned + Send;

    /// Checks the configuration and takes hold of what is needed. The host waits for it: its error is the
    /// reason that the host shows for a source that doesn't start.
    ///
    /// `data_source` is the stream's `DATASOURCE`, such as a topic or an address; it may be empty.
    ///
    /// # Errors
    /// Whatever is in the way.
    fn open(
        data_source: String,
        config: Self::Config,
        context: &Context,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// Sends tuples until there are no more or [`Context::cancelled`] completes. What it has sent until it
    /// returns still goes to the host; when it has not returned some time after the cancellation
    /// ([`crate::Options::stop_grace`]) the future is dropped.
    ///
    /// # Errors
    /// The source ends and the rule sees the error. What it can go on after belongs to [`Output::report`].
    fn run(self, output: Output, context: Context) -> impl Future<Output = Result> + Send;
}

/// What a source sends: one object, and what is to be said about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuple {
    /// The fields.
    pub message: Object,
    /// About the tuple, such as a topic or an offset; SQL reads it with `meta()`.
    pub meta: Object,
}

impl Tuple {
    /// A tuple without metadata, of anything that serialises into a JSON object.
    ///
    /// # Errors
    /// `message` doesn't serialise, or into something else than an object.
    pub fn new(message: &impl Serialize) -> Result<Self> {
        Ok(Self {
            message: object(message)?,
            meta: Object::new(),
        })
    }

    /// The same tuple with this metadata.
    ///
    /// # Errors
    /// `meta` doesn't serialise, or into something else than an object.
    pub fn with_meta(self, meta: &impl Serialize) -> Result<Self> {
        Ok(Self {
            meta: object(meta)?,
            ..self
        })
    }
}

impl From<Object> for Tuple {
    fn from(message: Object) -> Self {
        Self {
            message,
            meta: Object::new(),
        }
    }
}

fn object(value: &impl Serialize) -> Result<Object> {
    match serde_json::to_value(value)? {
        Value::Object(object) => Ok(object),
        other => Err(format!("a tuple is a JSON object; this serialises as {other}").into()),
    }
}

/// The way out of a source, with back-pressure: when the host is slow, sending waits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Output {
    queue: mpsc::Sender<SourceMessage>,
}

/// Nobody takes the source's tuples any longer: it has ended, or its channel to the host was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source's output is closed")]
pub struct OutputClosed;

impl Output {
    /// An output and where its messages come out; at most `capacity` wait between the two.
    pub(crate) fn channel(capacity: usize) -> (Self, mpsc::Receiver<SourceMessage>) {
        let (queue, messages) = mpsc::channel(capacity.max(1));
        (Self { queue }, messages)
    }

    /// Sends one tuple; waits while the queue to the host is full.
    ///
    /// # Errors
    /// [`OutputClosed`]: the tuple was not taken.
    ///
    /// # Cancel safety
    /// A tuple whose `send` is dropped before it completes was not sent.
    pub async fn send(&self, tuple: impl Into<Tuple>) -> Result<(), OutputClosed> {
        let Tuple { message, meta } = tuple.into();
        self.put(SourceMessage::Tuple { message, meta }).await
    }

    /// Reports an error that the source survives, such as a record that it can't read. The rule counts it.
    ///
    /// # Errors
    /// [`OutputClosed`]: the error was not taken.
    ///
    /// # Cancel safety
    /// As [`Output::send`].
    pub async fn report(&self, error: impl Into<Error>) -> Result<(), OutputClosed> {
        let text = describe(error.into().as_ref());
        self.put(SourceMessage::Error(text)).await
    }

    async fn put(&self, message: SourceMessage) -> Result<(), OutputClosed> {
        self.queue.send(message).await.map_err(|_| OutputClosed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_tuples() {
        let tuple = Tuple::new(&serde_json::json!({"a": 1})).unwrap();
        assert_eq!(tuple.message["a"], 1);
        let error = Tuple::new(&7).unwrap_err().to_string();
        assert_eq!(error, "a tuple is a JSON object; this serialises as 7");
    }
}
