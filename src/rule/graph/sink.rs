//! A sink node: encodes results and hands them to one sink.

use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::Object;

use super::End;
use super::flow::Receiver;
use crate::rule::definition::SinkOptions;
use crate::rule::metrics::{Metrics, now_ms};
use crate::{io, plugin};

/// Where a sink node's results go.
pub(crate) enum Output {
    BuiltIn(io::Sink),
    Portable(plugin::Sink),
}

impl Output {
    async fn send(&mut self, result: &Object, single: bool) -> Result<(), plugin::ChannelError> {
        match self {
            Self::BuiltIn(sink) => {
                sink.send(result, single).await;
                Ok(())
            }
            Self::Portable(sink) => sink.send(io::encode(result, single).into()).await,
        }
    }

    pub(super) async fn close(self) {
        if let Self::Portable(sink) = self {
            sink.close().await;
        }
    }
}

pub(super) async fn run(
    mut output: Output,
    options: SinkOptions,
    mut results: Receiver<Arc<Vec<Object>>>,
    metrics: Arc<Metrics>,
) -> Option<End> {
    while let Some(batch) = results.recv().await {
        let start = Instant::now();
        metrics.records_in(batch.len(), now_ms(), results.waiting());
        for result in batch.iter() {
            if !(options.omit_if_empty && result.is_empty()) {
                match output.send(result, options.send_single).await {
                    Ok(()) => metrics.records_out(1),
                    // At most once: the result is lost, and counted.
                    Err(error) => metrics.exception(&error),
                }
            }
        }
        metrics.processed(batch.len(), start);
    }
    output.close().await;
    None
}
