//! The source node: takes messages in, gives them the stream's types and a time, hands them on.

use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::Fields;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::flow::Sender;
use super::input::{Input, Received};
use super::ledger::Ledger;
use super::shared::Subscription;
use super::{End, Rows, Tuple};
use crate::rule::metrics::{Metrics, now_ms};
use crate::sql::{ConformError, CreateStream};

/// Where a source node's messages come from.
pub(super) enum Feed {
    /// A source of this rule's own.
    Own(Input),
    /// One that other rules read too. Where it is, is nobody's alone: it is not told what is safe.
    Shared(Subscription),
}

impl Feed {
    /// What comes next; `None` when there will be no more. Cancel safe.
    async fn recv(&mut self) -> Option<Received> {
        match self {
            Self::Own(input) => input.recv().await,
            Self::Shared(subscription) => subscription.recv().await,
        }
    }

    /// Asks for nothing new; whether something may still come.
    fn stop(&mut self) -> bool {
        match self {
            Self::Own(input) => input.stop(),
            // It goes on for other rules.
            Self::Shared(_) => false,
        }
    }

    /// What it means for the rule when there is no more.
    fn end(&self) -> End {
        match self {
            Self::Own(input) => input.end(),
            Self::Shared(subscription) => subscription.end(),
        }
    }

    /// Everything up to `offset` is safe.
    async fn commit(&mut self, offset: &Value, metrics: &Metrics) {
        if let Self::Own(input) = self
            && let Err(error) = input.commit(offset).await
        {
            metrics.exception(&error);
        }
    }

    async fn close(self) {
        if let Self::Own(input) = self {
            input.close().await;
        }
    }
}

/// Why a message is none of the stream.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("the message cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("{0}")]
    Types(#[from] ConformError),
}

/// What declares no fields, need not be looked into.
fn conform(stream: &CreateStream, message: Fields) -> Result<Fields, Unfit> {
    if stream.fields.is_empty() {
        return Ok(message);
    }
    Ok(stream.conform(message.into_object()?)?.into())
}

pub(super) async fn run(
    mut feed: Feed,
    stream: Arc<CreateStream>,
    rows: Sender<Rows>,
    sinks: usize,
    metrics: Arc<Metrics>,
    stop_intake: CancellationToken,
) -> Option<End> {
    let ledger = Arc::<Ledger>::default();
    let (mut is_stopping, mut replays) = (false, false);
    let end = loop {
        let received = tokio::select! {
            biased;
            () = stop_intake.cancelled(), if !is_stopping => {
                is_stopping = true;
                // What a source can bring again need not be waited for.
                if replays || !feed.stop() {
                    break None;
                }
                continue;
            }
            () = ledger.changed() => {
                if let Some(offset) = ledger.take_safe() {
                    feed.commit(&offset, &metrics).await;
                }
                continue;
            }
            received = feed.recv() => received,
        };
        let batch = match received {
            None if is_stopping => break None,
            None => break Some(feed.end()),
            Some(Err(error)) => {
                metrics.exception(&error);
                continue;
            }
            Some(Ok(batch)) => batch,
        };
        let (start, timestamp, received) = (Instant::now(), now_ms(), batch.tuples.len());
        metrics.records_in(received, timestamp, rows.waiting());
        let mut conforming = Vec::with_capacity(received);
        for tuple in batch.tuples {
            match conform(&stream, tuple.message) {
                Ok(fields) => conforming.push(Tuple {
                    fields,
                    meta: tuple.meta,
                    timestamp,
                    seed: fastrand::u64(..),
                }),
                Err(error) => metrics.exception(&error),
            }
        }
        let passed = conforming.len();
        let own = matches!(feed, Feed::Own(_));
        let offset = batch.offset.filter(|_| own);
        replays = offset.is_some();
        let batch = Rows {
            rows: conforming,
            mark: offset.map(|offset| ledger.open(offset, sinks)),
        };
        // Not given up when the rule stops: the nodes behind are working off their queues.
        if rows.send(batch, passed).await.is_err() {
            break Some(End::Failed("the node behind the source is gone".to_owned()));
        }
        metrics.records_out(passed);
        metrics.processed(received, start);
    };
    // What is queued becomes safe while the nodes behind work it off.
    drop(rows);
    ledger.closed().await;
    if let Some(offset) = ledger.take_safe() {
        feed.commit(&offset, &metrics).await;
    }
    feed.close().await;
    end
}
