//! Decides when sources are told that their batches are safe: not before the store has on its disk where they go on, for
//! until then a host that is killed asks for them again. Pure; the session drives it.
//!
//! Of each use two words wait at most: the one for the next checkpoint, and the newest, which replaces those between.

use std::collections::BTreeMap;

/// A batch, and the version of the store that knows it to be safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    seq: u64,
    version: u64,
}

/// What sources are to be told.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// By use: what was said first of what is not told yet, and what was said last.
    waiting: BTreeMap<u64, (Word, Option<Word>)>,
}

impl Commits {
    /// The batches of this use up to `seq` are safe as soon as this version of the store is.
    pub(super) fn note(&mut self, number: u64, seq: u64, version: u64) {
        let word = Word { seq, version };
        let first = self.waiting.entry(number).or_insert((word, None));
        if first.0 != word {
            first.1 = Some(word);
        }
    }

    /// A use, and the batch that it may be told now, with this version of the store on the disk.
    pub(super) fn take(&mut self, durable: u64) -> Option<(u64, u64)> {
        let mut waiting = self.waiting.iter();
        let number =
            waiting.find_map(|(number, (first, _))| (first.version <= durable).then_some(*number))?;
        let (first, last) = self.waiting.remove(&number)?;
        match last {
            Some(last) if last.version <= durable => Some((number, last.seq)),
            Some(last) => {
                self.waiting.insert(number, (last, None));
                Some((number, first.seq))
            }
            None => Some((number, first.seq)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The use is over.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_what_is_on_the_disk() {
        let mut commits = Commits::default();
        commits.note(4, 1, 10);
        assert_eq!(commits.take(9), None);
        assert_eq!(commits.take(10), Some((4, 1)));
        assert!(commits.is_empty());
    }

    #[test]
    fn however_much_is_safe_two_words_wait_and_every_checkpoint_tells_one() {
        let mut commits = Commits::default();
        for version in 1..=1000 {
            commits.note(4, version * 2, version);
        }
        assert_eq!(commits.take(500), Some((4, 2)));
        assert_eq!(commits.take(500), None);
        commits.note(4, 5000, 2500);
        assert_eq!(commits.take(2000), Some((4, 2000)));
        commits.note(4, 6000, 3000);
        assert_eq!(commits.take(3000), Some((4, 6000)));
        assert_eq!(commits.take(u64::MAX), None);
    }

    #[test]
    fn uses_do_not_wait_for_each_other() {
        let mut commits = Commits::default();
        commits.note(4, 1, 10);
        commits.note(5, 7, 3);
        assert_eq!((commits.take(3), commits.take(3)), (Some((5, 7)), None));
        commits.forget(4);
        assert!(commits.is_empty());
    }
}
