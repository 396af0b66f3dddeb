//! Owns the records that the plugins keep, and the verdict on them: what was sent, what was taken, what is missing
//! in between. Each run of a source has a name and numbers its tuples from 1, so that each one that the host has
//! accepted and lost shows as a gap, even when nobody knows how many a killed source had sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// The folder of the records.
pub(super) struct Records(PathBuf);

/// What came of one rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Different tuples that were taken.
    pub(super) taken: u64,
    /// Tuples that were taken again.
    pub(super) doubled: u64,
    /// Tuples that are missing, and where the first ones are.
    pub(super) lost: u64,
    pub(super) places: Vec<String>,
    /// The longest time between two tuples.
    pub(super) longest_pause: Duration,
    /// Runs of the source of which the end is known.
    pub(super) ended: usize,
    /// When the first tuple of each run was taken, microseconds since 1970.
    pub(super) first: BTreeMap<String, u64>,
}

/// How many gaps are shown.
const PLACES: usize = 10;

impl Records {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Asks every source to send no more.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn quiet(&self) -> Result<()> {
        let path = self.0.join("quiet");
        std::fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
    }

    /// How many lines the rule's sink has written.
    ///
    /// # Errors
    /// As [`Records::verdict`].
    pub(super) fn lines(&self, rule: &str) -> Result<usize> {
        let lines = self.taken(rule)?.lines().count();
        Ok(lines)
    }

    /// What the plugins have written garbage to, and how: `new` connections, `live` ones, a `lie`; or `refused`
    /// where they cannot.
    ///
    /// # Errors
    /// The record cannot be read.
    pub(super) fn garbage(&self) -> Result<Vec<(String, PathBuf)>> {
        let text = read(&self.0.join("garbage"))?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.map(|(how, path)| (how.to_owned(), path.into())).collect())
    }

    /// The verdict on one rule as of now.
    ///
    /// # Errors
    /// The records cannot be read, or are no records.
    pub(super) fn verdict(&self, rule: &str) -> Result<Verdict> {
        // First the sent ones: what was taken later than that is not missing.
        let sent = self.sent(rule)?;
        judge(&self.taken(rule)?, &sent).with_context(|| format!("the record of {rule}"))
    }

    fn taken(&self, rule: &str) -> Result<String> {
        read(&self.0.join("taken").join(rule))
    }

    fn sent(&self, rule: &str) -> Result<BTreeMap<String, u64>> {
        let folder = self.0.join("sent").join(rule);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
        };
        let mut sent = BTreeMap::new();
        for entry in entries {
            let path = entry?.path();
            let run = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if run.ends_with(".tmp") {
                continue;
            }
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            let count = text
                .parse()
                .with_context(|| format!("{} is no number", path.display()))?;
            sent.insert(run, count);
        }
        Ok(sent)
    }
}

/// What nobody has written is empty.
fn read(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("cannot read {}", path.display())),
    }
}

/// `taken` has a line `run number microseconds` for each; `sent` how many each run has sent that ended in order.
fn judge(taken: &str, sent: &BTreeMap<String, u64>) -> Result<Verdict> {
    let mut verdict = Verdict {
        ended: sent.len(),
        ..Verdict::default()
    };
    let mut runs: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut before = None;
    for line in taken.lines() {
        let mut words = line.split(' ');
        let (Some(run), Some(number), Some(at), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            anyhow::bail!("{line:?} is no record; expected run, number and time");
        };
        let number: u64 = number
            .parse()
            .with_context(|| format!("{line:?} has no number"))?;
        let at: u64 = at.parse().with_context(|| format!("{line:?} has no time"))?;
        let pause = Duration::from_micros(before.map_or(0, |before| at.saturating_sub(before)));
        verdict.longest_pause = verdict.longest_pause.max(pause);
        before = Some(at);
        verdict.first.entry(run.to_owned()).or_insert(at);
        if runs.entry(run).or_default().insert(number) {
            verdict.taken += 1;
        } else {
            verdict.doubled += 1;
        }
    }
    for run in sent.keys() {
        runs.entry(run).or_default();
    }
    for (run, numbers) in &runs {
        let last = numbers.last().copied().unwrap_or_default();
        let expected = sent.get(*run).copied().unwrap_or_default().max(last);
        verdict.lost += expected - numbers.len() as u64;
        let missing = (1..=expected).filter(|number| !numbers.contains(number));
        let room = PLACES.saturating_sub(verdict.places.len());
        let places = missing.take(room);
        verdict
            .places
            .extend(places.map(|number| format!("{number} of {expected} in run {run}")));
    }
    Ok(verdict)
}

impl Verdict {
    /// Nothing that was to arrive is missing.
    ///
    /// # Errors
    /// Something is.
    pub(super) fn complete(&self, rule: &str) -> Result<()> {
        anyhow::ensure!(
            self.lost == 0,
            "{rule}: {} of {} tuples are lost: {}",
            self.lost,
            self.lost + self.taken,
            self.places.join(", ")
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(runs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        runs.iter().map(|(run, n)| ((*run).to_owned(), *n)).collect()
    }

    #[test]
    fn all_that_was_sent_was_taken() {
        let verdict = judge("a 1 10\na 2 20\na 2 25\nb 1 5025\n", &sent(&[("a", 2)])).unwrap();
        assert_eq!((verdict.taken, verdict.doubled, verdict.lost), (3, 1, 0));
        assert_eq!(verdict.longest_pause, Duration::from_micros(5000));
        assert_eq!(verdict.first["b"], 5025);
        verdict.complete("r").unwrap();
    }

    #[test]
    fn gaps_and_missing_ends_are_losses() {
        let verdict = judge("a 1 10\na 3 20\n", &sent(&[("a", 4), ("b", 1)])).unwrap();
        assert_eq!(verdict.lost, 3);
        assert_eq!(
            verdict.places,
            ["2 of 4 in run a", "4 of 4 in run a", "1 of 1 in run b"]
        );
        assert!(
            verdict
                .complete("r")
                .unwrap_err()
                .to_string()
                .starts_with("r: 3 of 5")
        );
    }

    #[test]
    fn how_much_a_killed_run_has_sent_is_unknown_but_a_gap_in_it_is_a_loss() {
        assert_eq!(judge("a 1 1\na 2 2\n", &sent(&[])).unwrap().lost, 0);
        assert_eq!(judge("a 1 1\na 4 2\n", &sent(&[])).unwrap().lost, 2);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        assert!(judge("a 1\n", &sent(&[])).is_err());
        assert!(judge("a one 2\n", &sent(&[])).is_err());
    }
}
