//! The source node: takes messages in, gives them the stream's types and a time, hands them on.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::End;
use super::shared::Subscription;
use crate::io::{self, Tuple};
use crate::plugin;
use crate::rule::metrics::{Metrics, now_ms};
use crate::sql::{CreateStream, Row};

/// Where a source node's messages come from.
pub(crate) enum Input {
    BuiltIn(io::Source),
    Portable(plugin::Source),
    Shared(Subscription),
}

/// A message, or the text of an error after which the source goes on.
pub(super) type Received = Result<Tuple, String>;

impl Input {
    /// What comes next; `None` when there will be no more. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        match self {
            Self::BuiltIn(source) => source.recv().await.map(Ok),
            Self::Portable(source) => {
                let received = source.recv().await?;
                let tuple = |tuple: plugin::Tuple| Tuple {
                    message: tuple.message,
                    meta: tuple.meta,
                };
                Some(received.map(tuple).map_err(|error| error.to_string()))
            }
            Self::Shared(subscription) => subscription.recv().await,
        }
    }

    /// How a source that says no more ends its rule: a plugin's only does so when it is gone.
    pub(super) fn end(&self) -> End {
        match self {
            Self::BuiltIn(_) => End::SourceEnded,
            Self::Portable(_) => End::Failed("the plugin of its source is gone".to_owned()),
            Self::Shared(subscription) => subscription.end(),
        }
    }

    pub(super) async fn close(self) {
        if let Self::Portable(source) = self {
            source.close().await;
        }
    }
}

pub(super) async fn run(
    mut input: Input,
    stream: Arc<CreateStream>,
    rows: mpsc::Sender<Row>,
    metrics: Arc<Metrics>,
    stop_intake: CancellationToken,
) -> Option<End> {
    let end = loop {
        let received = tokio::select! {
            biased;
            () = stop_intake.cancelled() => break None,
            received = input.recv() => received,
        };
        let tuple = match received {
            None => break Some(input.end()),
            Some(Err(error)) => {
                metrics.exception(&error);
                continue;
            }
            Some(Ok(tuple)) => tuple,
        };
        let (start, timestamp) = (Instant::now(), now_ms());
        metrics.record_in(timestamp, rows.max_capacity() - rows.capacity());
        match stream.conform(tuple.message) {
            Ok(message) => {
                // Not given up when the rule stops: the nodes behind are working off their queues.
                let row = Row {
                    message,
                    meta: tuple.meta,
                    timestamp,
                    seed: fastrand::u64(..),
                };
                if rows.send(row).await.is_err() {
                    break Some(End::Failed("the node behind the source is gone".to_owned()));
                }
                metrics.record_out();
            }
            Err(error) => metrics.exception(&error),
        }
        metrics.processed(start);
    };
    input.close().await;
    end
}
