//! The source node: takes messages in, gives them the stream's types and a time, hands them on.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::End;
use super::flow::Sender;
use super::input::{Input, Received};
use super::shared::Subscription;
use crate::rule::metrics::{Metrics, now_ms};
use crate::sql::{CreateStream, Row};

/// Where a source node's messages come from.
pub(super) enum Feed {
    /// A source of this rule's own.
    Own(Input),
    /// One that other rules read too.
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

    /// What it means for the rule when there is no more.
    fn end(&self) -> End {
        match self {
            Self::Own(input) => input.end(),
            Self::Shared(subscription) => subscription.end(),
        }
    }

    async fn close(self) {
        if let Self::Own(input) = self {
            input.close().await;
        }
    }
}

pub(super) async fn run(
    mut feed: Feed,
    stream: Arc<CreateStream>,
    rows: Sender<Vec<Row>>,
    metrics: Arc<Metrics>,
    stop_intake: CancellationToken,
) -> Option<End> {
    let end = loop {
        let received = tokio::select! {
            biased;
            () = stop_intake.cancelled() => break None,
            received = feed.recv() => received,
        };
        let tuples = match received {
            None => break Some(feed.end()),
            Some(Err(error)) => {
                metrics.exception(&error);
                continue;
            }
            Some(Ok(tuples)) => tuples,
        };
        let (start, timestamp, received) = (Instant::now(), now_ms(), tuples.len());
        metrics.records_in(received, timestamp, rows.waiting());
        let mut conforming = Vec::with_capacity(received);
        for tuple in tuples {
            match stream.conform(tuple.message) {
                Ok(message) => conforming.push(Row {
                    message,
                    meta: tuple.meta,
                    timestamp,
                    seed: fastrand::u64(..),
                }),
                Err(error) => metrics.exception(&error),
            }
        }
        let passed = conforming.len();
        // Not given up when the rule stops: the nodes behind are working off their queues.
        if rows.send(conforming, passed).await.is_err() {
            break Some(End::Failed("the node behind the source is gone".to_owned()));
        }
        metrics.records_out(passed);
        metrics.processed(received, start);
    };
    feed.close().await;
    end
}
