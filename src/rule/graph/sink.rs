//! A sink node: encodes results and hands them to one sink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use mangrove_protocol::Fields;

use super::flow::Receiver;
use super::ledger::Mark;
use super::{End, Results};
use crate::plugin::{ChannelError, Settled};
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
                    ..Settled::default()
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

    /// The source can bring again what is not acknowledged in time.
    fn insist(&self) {
        if let Self::Portable(sink) = self {
            sink.insist();
        }
    }

    /// Returns what has come of results meanwhile.
    pub(super) async fn close(self) -> Settled {
        match self {
            Self::BuiltIn(_) => Settled::default(),
            Self::Portable(sink) => sink.close().await,
        }
    }
}

/// What has become of the results that were put in.
struct Account {
    metrics: Arc<Metrics>,
    /// The sink has to acknowledge.
    acks: bool,
    put: u64,
    settled: u64,
    /// With how many results settled they are.
    marks: VecDeque<(u64, Mark)>,
    /// The source can bring again what is not safe.
    replays: bool,
    /// Nothing from here on is safe.
    lost: bool,
    /// Why something is not safe, or nobody knows whether it is.
    doubt: Option<String>,
}

impl Account {
    fn new(metrics: Arc<Metrics>, acks: bool) -> Self {
        Self {
            metrics,
            acks,
            put: 0,
            settled: 0,
            marks: VecDeque::new(),
            replays: false,
            lost: false,
            doubt: None,
        }
    }

    /// So many results are about to be put in.
    fn expect(&mut self, results: usize, mark: Option<Mark>) {
        self.put += results as u64;
        self.replays |= mark.is_some();
        self.marks.extend(mark.map(|mark| (self.put, mark)));
    }

    fn note(&mut self, settled: Settled) {
        self.settled += settled.delivered + settled.failed.len() as u64;
        self.metrics
            .records_out(usize::try_from(settled.delivered).unwrap_or(usize::MAX));
        for error in settled.failed {
            self.metrics.exception(&error);
            // What the sink itself does not take, it would not take again: it is counted, and over.
            if self.acks && !is_final(&error) {
                self.lost = true;
                self.doubt.get_or_insert(error.to_string());
            }
        }
        if let Some(error) = settled.overdue {
            self.metrics.exception(&error);
            self.doubt.get_or_insert(error.to_string());
        }
        while !self.lost && self.marks.front().is_some_and(|(at, _)| *at <= self.settled) {
            if let Some((_, mark)) = self.marks.pop_front() {
                mark.settle();
            }
        }
    }

    /// Why the source has to bring again what is not safe. Without one that can, a result is given at most once.
    fn doubt(&self) -> Option<&String> {
        self.doubt.as_ref().filter(|_| self.replays)
    }
}

/// Whether sending the result again would not help: the sink has refused it, or nothing can carry it.
fn is_final(error: &ChannelError) -> bool {
    matches!(
        error,
        ChannelError::Plugin(_)
            | ChannelError::Garbage(_)
            | ChannelError::Contract(_)
            | ChannelError::TooLong { .. }
    )
}

pub(super) async fn run(
    mut output: Output,
    options: SinkOptions,
    mut results: Receiver<Results>,
    metrics: Arc<Metrics>,
) -> Option<End> {
    let mut account = Account::new(Arc::clone(&metrics), options.require_ack);
    while account.doubt().is_none() {
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
        account.expect(wanted.len(), mark);
        if account.replays {
            output.insist();
        }
        let mut rest = wanted.as_slice();
        while !rest.is_empty() && account.doubt().is_none() {
            let (now, later) = rest.split_at(output.window().min(rest.len()));
            account.note(output.put(now, options.send_single).await);
            rest = later;
        }
        account.note(Settled::default());
        metrics.processed(batch.len(), start);
    }
    while !output.is_settled() && account.doubt().is_none() {
        account.note(output.settle().await);
    }
    // What is queued comes again, if it has to.
    drop(results);
    account.note(output.close().await);
    account.doubt().cloned().map(End::Unsafe)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::*;
    use crate::plugin::State;
    use std::time::Duration;

    fn overdue() -> ChannelError {
        ChannelError::Overdue {
            plugin: "car".parse().unwrap(),
            limit: Duration::from_secs(5),
            status: State::Running.to_string(),
        }
    }

    fn failed(errors: Vec<ChannelError>) -> Settled {
        Settled {
            failed: errors,
            ..Settled::default()
        }
    }

    /// An account with two results before the offset 1, and one behind it before the offset 2.
    fn account(acks: bool) -> (Account, Arc<Ledger>) {
        let ledger = Arc::<Ledger>::default();
        let metrics = Arc::new(Metrics::new("sink".to_owned()));
        let mut account = Account::new(metrics, acks);
        account.expect(2, Some(ledger.open(1.into(), 1)));
        account.expect(1, Some(ledger.open(2.into(), 1)));
        (account, ledger)
    }

    #[test]
    fn no_offset_goes_past_a_result_that_was_given_up() {
        let (mut account, ledger) = account(true);
        account.note(failed(vec![overdue()]));
        assert!(
            account
                .doubt()
                .is_some_and(|why| why.contains("no acknowledgement"))
        );
        let delivered = Settled {
            delivered: 2,
            ..Settled::default()
        };
        account.note(delivered);
        assert_eq!(ledger.take_safe(), None);
    }

    #[test]
    fn what_a_sink_refuses_is_over() {
        let (mut account, ledger) = account(true);
        let refused = || ChannelError::Plugin("no such column".to_owned());
        account.note(failed(vec![refused(), refused()]));
        assert_eq!((account.doubt(), ledger.take_safe()), (None, Some(1.into())));
    }

    #[test]
    fn what_is_overdue_is_in_doubt_and_safe_when_it_is_acknowledged() {
        let (mut account, ledger) = account(true);
        account.note(Settled {
            overdue: Some(overdue()),
            ..Settled::default()
        });
        assert_eq!((account.doubt().is_some(), ledger.take_safe()), (true, None));
        account.note(Settled {
            delivered: 3,
            ..Settled::default()
        });
        assert_eq!(ledger.take_safe(), Some(2.into()));
    }

    #[test]
    fn without_acknowledgements_or_offsets_a_result_is_given_at_most_once() {
        let (mut account, ledger) = account(false);
        account.note(failed(vec![overdue(), overdue(), overdue()]));
        assert_eq!((account.doubt(), ledger.take_safe()), (None, Some(2.into())));

        let metrics = Arc::new(Metrics::new("sink".to_owned()));
        let mut account = Account::new(metrics, true);
        account.expect(1, None);
        account.note(failed(vec![overdue()]));
        assert_eq!(account.doubt(), None);
        // Had the source said that it can, it would be asked now.
        account.expect(0, Some(ledger.open(3.into(), 1)));
        account.note(Settled::default());
        assert_eq!((account.doubt().is_some(), ledger.take_safe()), (true, None));
    }
}
