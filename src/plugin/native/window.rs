//! Decides what a sink is sent, and what its acknowledgements mean. Pure; `outlet` drives it.
//!
//! A result is *waiting*, then *sent* in a batch to one process, then settled: acknowledged, failed, or given up.
//! Without acknowledgements it is settled as soon as it is sent. Another process gets everything that was sent and
//! is not settled once more, in the same order; batches count from 1 there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mangrove_protocol::native::sink::SinkWriter;

#[derive(Debug)]
struct Batch {
    seq: u64,
    results: Vec<Bytes>,
    sent: Instant,
}

/// What has come of results.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct Outcomes {
    pub(in crate::plugin) delivered: u64,
    pub(in crate::plugin) failed: Vec<Failure>,
    /// Something has been waiting for its acknowledgement for too long, and waits on.
    pub(in crate::plugin) overdue: bool,
}

/// Why a result is not safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum Failure {
    /// The sink's own words.
    Plugin(String),
    /// No acknowledgement in time.
    NotAcknowledged,
    /// Nobody there to take it.
    NotTaken,
    /// It has so many bytes, which is more than a message may have.
    TooLong(usize),
}

#[derive(Debug)]
pub(super) struct Window {
    /// Whether the sink acknowledges.
    ack: bool,
    /// The most results in a batch.
    batch: usize,
    /// The longest message, in bytes.
    message: usize,
    /// Of the process that it sends to, the last batch.
    seq: u64,
    waiting: VecDeque<Bytes>,
    sent: VecDeque<Batch>,
    /// When something was acknowledged last.
    heard: Option<Instant>,
    outcomes: Outcomes,
}

impl Window {
    pub(super) fn new(ack: bool, batch: usize, message: usize) -> Self {
        Self {
            ack,
            batch: batch.max(1),
            message,
            seq: 0,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            heard: None,
            outcomes: Outcomes::default(),
        }
    }

    /// Results that are to be sent.
    pub(super) fn put(&mut self, results: Vec<Bytes>) {
        self.waiting.extend(results);
    }

    /// Everything goes to another process from now on.
    pub(super) fn begin(&mut self) {
        self.seq = 0;
        for batch in self.sent.drain(..).rev() {
            for result in batch.results.into_iter().rev() {
                self.waiting.push_front(result);
            }
        }
    }

    /// The oldest of what is not settled. Everything that was sent waits again.
    pub(super) fn first_open(&mut self) -> Option<Bytes> {
        self.begin();
        self.waiting.front().cloned()
    }

    /// The oldest of what waits is not to be settled here any more.
    pub(super) fn drop_first(&mut self) {
        self.waiting.pop_front();
    }

    /// The next message, if anything waits. It counts as sent: [`Window::unsend`] when it was not.
    pub(super) fn next_message(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut writer = SinkWriter::default();
        let mut results = Vec::new();
        while let Some(result) = self.waiting.front() {
            let room = self.message.saturating_sub(writer.size() + 1);
            if result.len() > room && results.is_empty() {
                // In their order: what was sent before is settled first.
                if !self.sent.is_empty() {
                    break;
                }
                self.outcomes.failed.push(Failure::TooLong(result.len()));
                self.waiting.pop_front();
                continue;
            }
            let is_full = results.len() >= self.batch
                || result.len() > room
                || (!results.is_empty() && writer.size() + result.len() > super::BATCH_BYTES);
            if is_full {
                break;
            }
            writer.push(result);
            results.extend(self.waiting.pop_front());
        }
        if results.is_empty() {
            return None;
        }
        self.seq += 1;
        let seq = self.seq;
        self.sent.push_back(Batch {
            seq,
            results,
            sent: now,
        });
        Some(writer.finish(seq))
    }

    /// The last message was handed over.
    pub(super) fn note_sent(&mut self) {
        if !self.ack {
            let results: usize = self.sent.drain(..).map(|batch| batch.results.len()).sum();
            self.outcomes.delivered += results as u64;
        }
    }

    /// The last message was not handed over after all.
    pub(super) fn unsend(&mut self) {
        if let Some(batch) = self.sent.pop_back_if(|batch| batch.seq == self.seq) {
            self.seq -= 1;
            for result in batch.results.into_iter().rev() {
                self.waiting.push_front(result);
            }
        }
    }

    /// Nobody is there to take what waits.
    pub(super) fn give_up_waiting(&mut self) {
        let waiting = self.waiting.drain(..);
        self.outcomes.failed.extend(waiting.map(|_| Failure::NotTaken));
    }

    /// An acknowledgement of the process that it sends to.
    ///
    /// # Errors
    /// It breaks the contract; nothing is settled.
    pub(super) fn acknowledge(
        &mut self,
        seq: u64,
        errors: Vec<(u32, String)>,
        now: Instant,
    ) -> Result<(), String> {
        if !self.ack {
            return Err("it acknowledges results though \"ack\" was false".to_owned());
        }
        if seq > self.seq {
            let last = self.seq;
            return Err(format!("it acknowledges batch {seq}; the last one was {last}"));
        }
        let length = self.sent.iter().find(|batch| batch.seq == seq);
        let length = length.map_or(0, |batch| batch.results.len());
        // What was given up is settled already.
        if let Some((index, _)) = errors.iter().find(|(index, _)| *index as usize >= length)
            && length > 0
        {
            return Err(format!(
                "it names the result {index} of batch {seq}, which has {length}"
            ));
        }
        let mut errors = errors;
        errors.sort_by_key(|(index, _)| *index);
        errors.dedup_by_key(|(index, _)| *index);
        while let Some(batch) = self.sent.pop_front_if(|batch| batch.seq <= seq) {
            self.heard = Some(now);
            let failed = if batch.seq == seq {
                std::mem::take(&mut errors)
            } else {
                Vec::new()
            };
            self.outcomes.delivered += (batch.results.len() - failed.len().min(batch.results.len())) as u64;
            let failed = failed.into_iter().map(|(_, error)| Failure::Plugin(error));
            self.outcomes.failed.extend(failed);
        }
        Ok(())
    }

    /// When the oldest batch is no longer waited for, if nothing else happens. The sink works off one after the other:
    /// as long as it acknowledges those before, it is not late.
    pub(super) fn deadline(&self, limit: Duration) -> Option<Instant> {
        let batch = self.sent.front()?;
        Some(self.heard.map_or(batch.sent, |heard| heard.max(batch.sent)) + limit)
    }

    /// Gives up the batches that have been waiting for so long.
    pub(super) fn expire(&mut self, now: Instant, limit: Duration) {
        while self.deadline(limit).is_some_and(|deadline| now >= deadline)
            && let Some(batch) = self.sent.pop_front()
        {
            let failed = batch.results.iter().map(|_| Failure::NotAcknowledged);
            self.outcomes.failed.extend(failed);
        }
    }

    /// Says that something has been waiting for so long, and waits on as long.
    pub(super) fn complain(&mut self, now: Instant, limit: Duration) {
        if self.deadline(limit).is_some_and(|deadline| now >= deadline) {
            self.outcomes.overdue = true;
            self.extend(now);
        }
    }

    /// Everything that was sent is waited for from now on.
    pub(super) fn extend(&mut self, now: Instant) {
        self.sent.iter_mut().for_each(|batch| batch.sent = now);
    }

    /// The results that are neither settled nor given up.
    pub(super) fn open(&self) -> usize {
        self.waiting.len() + self.sent.iter().map(|batch| batch.results.len()).sum::<usize>()
    }

    /// Whether anything has to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether what waits next is too long, which is said when everything before it is settled.
    pub(super) fn is_stuck(&self) -> bool {
        let next = self.waiting.front();
        let is_long = next.is_some_and(|next| next.len() + SinkWriter::default().size() >= self.message);
        is_long && !self.sent.is_empty()
    }

    /// The last batch that was sent to the process.
    pub(super) fn last(&self) -> u64 {
        self.seq
    }

    /// What has come of results since the last call.
    pub(super) fn take_outcomes(&mut self) -> Option<Outcomes> {
        let news = self.untold() > 0 || self.outcomes.overdue;
        news.then(|| std::mem::take(&mut self.outcomes))
    }

    /// Whether something is overdue that nobody has been told of.
    pub(super) fn is_overdue(&self) -> bool {
        self.outcomes.overdue
    }

    /// So many results have been settled that nobody has been told of.
    pub(super) fn untold(&self) -> u64 {
        self.outcomes.delivered + self.outcomes.failed.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn results(texts: &[&'static str]) -> Vec<Bytes> {
        texts
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect()
    }

    fn sends(window: &mut Window) -> Option<String> {
        let message = window.next_message(Instant::now())?;
        window.note_sent();
        Some(String::from_utf8(message).unwrap())
    }

    fn outcomes(delivered: u64, failed: &[Failure]) -> Option<Outcomes> {
        let failed = failed.to_vec();
        Some(Outcomes {
            delivered,
            failed,
            overdue: false,
        })
    }

    /// As [`Window::acknowledge`], now.
    fn acknowledges(window: &mut Window, seq: u64, errors: Vec<(u32, String)>) -> Result<(), String> {
        window.acknowledge(seq, errors, Instant::now())
    }

    #[test]
    fn what_is_not_acknowledged_goes_to_the_next_process_in_order() {
        let mut window = Window::new(true, 2, 1000);
        window.put(results(&["1", "2", "3", "4", "5"]));
        assert_eq!(sends(&mut window).unwrap(), r#"{"seq":1,"results":[1,2]}"#);
        assert_eq!(sends(&mut window).unwrap(), r#"{"seq":2,"results":[3,4]}"#);
        acknowledges(&mut window, 1, vec![(1, "no".to_owned())]).unwrap();
        assert_eq!(
            window.take_outcomes(),
            outcomes(1, &[Failure::Plugin("no".to_owned())])
        );
        window.begin();
        assert_eq!((window.open(), window.last()), (3, 0));
        assert_eq!(sends(&mut window).unwrap(), r#"{"seq":1,"results":[3,4]}"#);
        assert_eq!(sends(&mut window).unwrap(), r#"{"seq":2,"results":[5]}"#);
        assert_eq!(sends(&mut window), None);
        acknowledges(&mut window, 2, Vec::new()).unwrap();
        assert_eq!(window.take_outcomes(), outcomes(3, &[]));
        assert_eq!((window.open(), window.take_outcomes()), (0, None));
    }

    #[test]
    fn without_acknowledgements_what_is_handed_over_is_settled() {
        let mut window = Window::new(false, 10, 1000);
        window.put(results(&["1", "2"]));
        window.next_message(Instant::now()).unwrap();
        window.unsend();
        assert_eq!((window.open(), window.last()), (2, 0));
        sends(&mut window).unwrap();
        assert_eq!(window.take_outcomes(), outcomes(2, &[]));
        assert!(acknowledges(&mut window, 1, Vec::new()).is_err());
    }

    #[test]
    fn acknowledgements_that_break_the_contract_settle_nothing() {
        let mut window = Window::new(true, 10, 1000);
        window.put(results(&["1", "2"]));
        sends(&mut window).unwrap();
        let error = acknowledges(&mut window, 2, Vec::new()).unwrap_err();
        assert_eq!(error, "it acknowledges batch 2; the last one was 1");
        let error = acknowledges(&mut window, 1, vec![(2, String::new())]).unwrap_err();
        assert_eq!(error, "it names the result 2 of batch 1, which has 2");
        assert_eq!(window.open(), 2);
        acknowledges(&mut window, 1, Vec::new()).unwrap();
        acknowledges(&mut window, 1, Vec::new()).unwrap();
        assert_eq!(window.take_outcomes(), outcomes(2, &[]));
    }

    #[test]
    fn what_takes_too_long_is_given_up_and_may_be_acknowledged_later() {
        let mut window = Window::new(true, 1, 1000);
        let (start, limit) = (Instant::now(), Duration::from_secs(5));
        window.put(results(&["1", "2"]));
        window.next_message(start).unwrap();
        window.next_message(start + limit).unwrap();
        assert_eq!(window.deadline(limit), Some(start + limit));
        window.expire(start + limit, limit);
        assert_eq!(window.take_outcomes(), outcomes(0, &[Failure::NotAcknowledged]));
        let late = vec![(0, "late".to_owned())];
        window.acknowledge(1, late, start + limit).unwrap();
        assert_eq!(window.take_outcomes(), None);
        window.extend(start + 2 * limit);
        window.expire(start + 2 * limit, limit);
        window.acknowledge(2, Vec::new(), start + 2 * limit).unwrap();
        assert_eq!(window.take_outcomes(), outcomes(1, &[]));
    }

    #[test]
    fn a_sink_that_goes_on_acknowledging_is_not_late() {
        let mut window = Window::new(true, 1, 1000);
        let (start, limit) = (Instant::now(), Duration::from_secs(5));
        window.put(results(&["1", "2"]));
        window.next_message(start).unwrap();
        window.next_message(start).unwrap();
        let heard = start + limit / 2;
        window.acknowledge(1, Vec::new(), heard).unwrap();
        window.expire(start + limit, limit);
        assert_eq!(window.take_outcomes(), outcomes(1, &[]));
        assert_eq!(window.deadline(limit), Some(heard + limit));
    }

    #[test]
    fn what_is_insisted_on_is_overdue_and_settled_when_it_is_acknowledged() {
        let mut window = Window::new(true, 1, 1000);
        let (start, limit) = (Instant::now(), Duration::from_secs(5));
        window.put(results(&["1"]));
        window.next_message(start).unwrap();
        window.complain(start + limit / 2, limit);
        assert!(!window.is_overdue());
        window.complain(start + limit, limit);
        let overdue = window.take_outcomes().unwrap();
        assert_eq!(
            (overdue.overdue, overdue.failed.len(), window.open()),
            (true, 0, 1)
        );
        assert_eq!(
            (window.deadline(limit), window.take_outcomes()),
            (Some(start + 2 * limit), None)
        );
        acknowledges(&mut window, 1, Vec::new()).unwrap();
        assert_eq!(window.take_outcomes(), outcomes(1, &[]));
    }

    #[test]
    fn a_result_longer_than_a_message_is_not_sent() {
        let mut window = Window::new(false, 10, 100);
        window.put(vec![Bytes::from(vec![b'1'; 200]), Bytes::from_static(b"2")]);
        assert_eq!(sends(&mut window).unwrap(), r#"{"seq":1,"results":[2]}"#);
        assert_eq!(window.take_outcomes(), outcomes(1, &[Failure::TooLong(200)]));
    }

    proptest! {
        /// Whatever happens in whatever order: each result is settled once, and no more than were put.
        #[test]
        fn every_result_is_settled_once(steps in proptest::collection::vec(0u8..7, 1..200)) {
            let mut window = Window::new(true, 3, 10_000);
            let (mut put, mut settled) = (0u64, 0u64);
            let now = Instant::now();
            for step in steps {
                match step {
                    0 | 1 => {
                        put += 2;
                        window.put(results(&["1", "2"]));
                    }
                    2 => drop(window.next_message(now)),
                    3 => window.unsend(),
                    4 => {
                        let last = window.last();
                        acknowledges(&mut window, last, Vec::new()).unwrap();
                    }
                    5 => window.begin(),
                    _ => {
                        let first = window.last().saturating_sub(1);
                        let _ = acknowledges(&mut window, first, vec![(0, "no".to_owned())]);
                    }
                }
                if let Some(Outcomes { delivered, failed, .. }) = window.take_outcomes() {
                    settled += delivered + failed.len() as u64;
                }
                prop_assert_eq!(settled + window.open() as u64, put);
            }
        }
    }
}
