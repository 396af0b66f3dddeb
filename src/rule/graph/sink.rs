//! A sink node: encodes results and hands them to one sink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::Fields;

use super::flow::Receiver;
use super::ledger::Mark;
use super::{End, Results};
use crate::plugin::Settled;
use crate::rule::definition::SinkOptions;
use crate::rule::metrics::{Metrics, now_ms};
use crate::{io, plugin};

/// Where a sink node's results go.
pub(crate) enum Output {
    BuiltIn(io::Sink),
    Portable(Box<plugin::Sink>),
}

impl Output {
    /// Puts results in, and says what has come of these and of earlier ones.
    async fn put(&mut self, results: &[&Fields], single: bool) -> Settled {
        match self {
            Self::BuiltIn(sink) => {
                for result in results {
                    sink.send(result, single).await;
                }
                Settled {
                    delivered: results.len() as u64,
                    failed: Vec::new(),
                }
            }
            Self::Portable(sink) => sink.put(io::encode(results, single)).await,
        }
    }

    /// Waits until something has come of results that were put in. Cancel safe.
    async fn settle(&mut self) -> Settled {
        match self {
            Self::BuiltIn(_) => std::future::pending().await,
            Self::Portable(sink) => sink.settle().await,
        }
    }

    /// How many results are put in at once.
    fn window(&self) -> usize {
        match self {
            Self::BuiltIn(_) => usize::MAX,
            Self::Portable(sink) => sink.window(),
        }
    }

    fn is_settled(&self) -> bool {
        match self {
            Self::BuiltIn(_) => true,
            Self::Portable(sink) => sink.outstanding() == 0,
        }
    }

    pub(super) async fn close(self) {
        if let Self::Portable(sink) = self {
            sink.close().await;
        }
    }
}

/// What has become of the results that were put in.
struct Account {
    metrics: Arc<Metrics>,
    put: u64,
    settled: u64,
    /// With how many results settled they are.
    marks: VecDeque<(u64, Mark)>,
}

impl Account {
    fn note(&mut self, settled: Settled) {
        self.settled += settled.delivered + settled.failed.len() as u64;
        self.metrics
            .records_out(usize::try_from(settled.delivered).unwrap_or(usize::MAX));
        // At most once: the result is lost, and counted.
        for error in settled.failed {
            self.metrics.exception(&error);
        }
        while self.marks.front().is_some_and(|(at, _)| *at <= self.settled) {
            if let Some((_, mark)) = self.marks.pop_front() {
                mark.settle();
            }
        }
    }
}

pub(super) async fn run(
    mut output: Output,
    options: SinkOptions,
    mut results: Receiver<Results>,
    metrics: Arc<Metrics>,
) -> Option<End> {
    let mut account = Account {
        metrics: Arc::clone(&metrics),
        put: 0,
        settled: 0,
        marks: VecDeque::new(),
    };
    loop {
        let batch = tokio::select! {
            biased;
            settled = output.settle(), if !output.is_settled() => {
                account.note(settled);
                continue;
            }
            batch = results.recv() => batch,
        };
        let Some(Results { results: batch, mark }) = batch else {
            break;
        };
        let start = Instant::now();
        metrics.records_in(batch.len(), now_ms(), results.waiting());
        let wanted = |result: &&Fields| !(options.omit_if_empty && result.is_empty());
        let wanted: Vec<&Fields> = batch.iter().filter(wanted).collect();
        account.put += wanted.len() as u64;
        account.marks.extend(mark.map(|mark| (account.put, mark)));
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(output.window().min(rest.len()));
            account.note(output.put(now, options.send_single).await);
            rest = later;
        }
        account.note(Settled::default());
        metrics.processed(batch.len(), start);
    }
    while !output.is_settled() {
        account.note(output.settle().await);
    }
    output.close().await;
    None
}
