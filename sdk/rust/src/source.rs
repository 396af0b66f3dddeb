//! Owns what an author implements to bring data in.

use serde::de::DeserializeOwned;

use crate::{Context, Output, Result};

/// Brings data in. One value is opened per use, that is per stream and rule (or per shared stream).
///
/// ```
/// use mangrove_sdk::{Context, Output, Result, Source};
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
///             output.send_json(&Tick { topic: &self.topic, count }).await?;
///             count += 1;
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Source: Sized + Send + 'static {
    /// The properties of the stream's conf key, read with serde. Hosts add properties of their own: don't deny
    /// unknown fields. `Value` or [`Object`](crate::Object) takes them as they are.
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
