//! Owns the decision what has to be done so that what runs is what lies in the folder. Pure: it is given what
//! was found and what is known, and returns one step per name. It knows no file, no clock and no process; the
//! reconciliation drives it.
//!
//! What lies there is the truth, but only what is *still*: nothing follows from a folder that is being written.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What a folder is found to be. `F` is its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<F> {
    /// It is changing, or whether it has changed cannot be told.
    Moving,
    /// It has not changed for long enough.
    Still(F, Verdict),
}

/// What a still folder is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is a plugin that may run.
    Whole,
    /// Something of it is not there yet.
    Incomplete(String),
    /// It is all there, and wrong.
    Refused(String),
}

/// What is known under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known<F> {
    /// It is accepted, and so supervised.
    Runs {
        /// The folder that it was started from.
        from: F,
        /// The folder that was tried last and did not start.
        tried: Option<F>,
        /// Why what lies there now was not taken; empty when it was.
        note: String,
    },
    /// Somebody stopped it.
    Stopped {
        /// The folder as it was then.
        from: F,
        /// As above.
        note: String,
    },
    /// It does not run, for the verdict's reason. Never `Whole`.
    Unfit(Verdict),
}

/// What has to be done for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Accept it and start it.
    Start,
    /// Start what lies there beside what runs, and let it take over.
    Swap,
    /// Take it out of use and stop it.
    Remove,
    /// It does not run, for the verdict's reason; say so.
    Show(Verdict),
    /// What runs goes on, and this is why it is not what lies there; nothing when it is.
    Note(String),
}

/// What a folder that is being written shows as.
pub(super) const MOVING: &str = "its files are still changing";

/// One step for each name that needs one.
pub(super) fn plan<F: PartialEq>(
    found: &BTreeMap<String, Found<F>>,
    known: &BTreeMap<String, Known<F>>,
) -> BTreeMap<String, Step> {
    let gone = known.keys().filter(|name| !found.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), Step::Remove));
    let there = found.iter().filter_map(|(name, found)| {
        let step = step(found, known.get(name))?;
        Some((name.clone(), step))
    });
    gone.chain(there).collect()
}

fn step<F: PartialEq>(found: &Found<F>, known: Option<&Known<F>>) -> Option<Step> {
    let Found::Still(now, verdict) = found else {
        let show = Step::Show(Verdict::Incomplete(MOVING.to_owned()));
        return known.is_none().then_some(show);
    };
    match (known, verdict) {
        (None | Some(Known::Unfit(_)), Verdict::Whole) => Some(Step::Start),
        (None, verdict) => Some(Step::Show(verdict.clone())),
        (Some(Known::Unfit(shown)), verdict) => (shown != verdict).then(|| Step::Show(verdict.clone())),
        (Some(Known::Runs { from, note, .. } | Known::Stopped { from, note }), _) if from == now => {
            (!note.is_empty()).then(|| Step::Note(String::new()))
        }
        (Some(Known::Runs { tried, .. }), Verdict::Whole) => {
            (tried.as_ref() != Some(now)).then_some(Step::Swap)
        }
        (Some(Known::Stopped { .. }), Verdict::Whole) => Some(Step::Start),
        (
            Some(Known::Runs { note, .. } | Known::Stopped { note, .. }),
            Verdict::Incomplete(reason) | Verdict::Refused(reason),
        ) => (note != reason).then(|| Step::Note(reason.clone())),
    }
}

/// What is to be done about a zip: whether to install it. `failed` is the one that was not installed.
pub(super) fn installs<F: PartialEq>(still: &F, failed: Option<&F>) -> bool {
    failed != Some(still)
}

/// How often a plugin may replace itself by what it writes into its own folder.
const CHURN: usize = 3;
/// In which time.
const CHURN_TIME: Duration = Duration::from_secs(60);

/// The latest swaps of one plugin whose manifest and program were as before.
#[derive(Clone, Debug, Default)]
pub(super) struct Churn(VecDeque<Instant>);

impl Churn {
    /// Whether one more such swap may be made. If so, it counts.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        self.0
            .retain(|swap| now.saturating_duration_since(*swap) < CHURN_TIME);
        let admits = self.0.len() < CHURN;
        if admits {
            self.0.push_back(now);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn incomplete(reason: &str) -> Verdict {
        Verdict::Incomplete(reason.to_owned())
    }

    fn refused(reason: &str) -> Verdict {
        Verdict::Refused(reason.to_owned())
    }

    fn runs(from: u8, tried: Option<u8>, note: &str) -> Known<u8> {
        let note = note.to_owned();
        Known::Runs { from, tried, note }
    }

    fn stopped(from: u8, note: &str) -> Known<u8> {
        let note = note.to_owned();
        Known::Stopped { from, note }
    }

    #[test]
    fn each_pair_of_found_and_known_has_its_step() {
        let still = |fingerprint, verdict| Some(Found::Still(fingerprint, verdict));
        let whole = |fingerprint| still(fingerprint, Verdict::Whole);
        let note = |text: &str| Some(Step::Note(text.to_owned()));
        let table = [
            // New.
            (Some(Found::Moving), None, Some(Step::Show(incomplete(MOVING)))),
            (whole(1), None, Some(Step::Start)),
            (
                still(1, incomplete("no manifest")),
                None,
                Some(Step::Show(incomplete("no manifest"))),
            ),
            (still(1, refused("junk")), None, Some(Step::Show(refused("junk")))),
            // Not running yet.
            (Some(Found::Moving), Some(Known::Unfit(refused("junk"))), None),
            (
                whole(1),
                Some(Known::Unfit(incomplete("no manifest"))),
                Some(Step::Start),
            ),
            (
                still(1, refused("junk")),
                Some(Known::Unfit(refused("junk"))),
                None,
            ),
            (
                still(2, refused("junk")),
                Some(Known::Unfit(incomplete("junk"))),
                Some(Step::Show(refused("junk"))),
            ),
            (None, Some(Known::Unfit(refused("junk"))), Some(Step::Remove)),
            // Running.
            (Some(Found::Moving), Some(runs(1, None, "")), None),
            (whole(1), Some(runs(1, None, "")), None),
            (whole(2), Some(runs(1, None, "")), Some(Step::Swap)),
            (whole(2), Some(runs(1, Some(2), "it does not start")), None),
            (
                whole(3),
                Some(runs(1, Some(2), "it does not start")),
                Some(Step::Swap),
            ),
            (whole(1), Some(runs(1, Some(2), "it does not start")), note("")),
            (still(2, refused("junk")), Some(runs(1, None, "")), note("junk")),
            (still(2, refused("junk")), Some(runs(1, None, "junk")), None),
            (still(1, refused("junk")), Some(runs(1, None, "")), None),
            (None, Some(runs(1, None, "")), Some(Step::Remove)),
            // Stopped by hand.
            (Some(Found::Moving), Some(stopped(1, "")), None),
            (whole(1), Some(stopped(1, "")), None),
            (whole(2), Some(stopped(1, "")), Some(Step::Start)),
            (
                still(2, incomplete("no program")),
                Some(stopped(1, "")),
                note("no program"),
            ),
            (None, Some(stopped(1, "")), Some(Step::Remove)),
        ];
        for (found, known, expected) in table {
            let case = format!("{found:?}, {known:?}");
            let found = found.map(|found| ("car".to_owned(), found)).into_iter().collect();
            let known = known.map(|known| ("car".to_owned(), known)).into_iter().collect();
            assert_eq!(plan(&found, &known).remove("car"), expected, "{case}");
        }
    }

    fn some_verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            Just(Verdict::Whole),
            Just(incomplete("a")),
            Just(refused("a")),
            Just(refused("b"))
        ]
    }

    fn some_known() -> impl Strategy<Value = Known<u8>> {
        prop_oneof![
            (0..3u8, proptest::option::of(0..3u8), "[ab]?")
                .prop_map(|(from, tried, note)| runs(from, tried, &note)),
            (0..3u8, "[ab]?").prop_map(|(from, note)| stopped(from, &note)),
            some_verdict()
                .prop_filter("what is whole runs", |verdict| *verdict != Verdict::Whole)
                .prop_map(Known::Unfit),
        ]
    }

    fn some_found() -> impl Strategy<Value = Found<u8>> {
        prop_oneof![
            Just(Found::Moving),
            (0..3u8, some_verdict()).prop_map(|(fingerprint, verdict)| Found::Still(fingerprint, verdict)),
        ]
    }

    /// What is known after the step; `works`: whether what is tried does start.
    fn after(
        step: Step,
        found: Option<&Found<u8>>,
        known: Option<Known<u8>>,
        works: bool,
    ) -> Option<Known<u8>> {
        let now = match found {
            Some(Found::Still(now, _)) => *now,
            _ => 0,
        };
        match (step, known) {
            (Step::Remove, _) => None,
            (Step::Show(verdict), _) => Some(Known::Unfit(verdict)),
            // What is accepted stays so: its failures are the supervision's.
            (Step::Start, _) => Some(runs(now, None, "")),
            (Step::Swap, _) if works => Some(runs(now, None, "")),
            (Step::Swap, Some(Known::Runs { from, .. })) => Some(runs(from, Some(now), "it does not start")),
            (Step::Note(note), Some(Known::Runs { from, tried, .. })) => {
                Some(Known::Runs { from, tried, note })
            }
            (Step::Note(note), Some(Known::Stopped { from, .. })) => Some(Known::Stopped { from, note }),
            (step, known) => panic!("{step:?} makes no sense for {known:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_carried_out_plan_leaves_nothing_to_do(
            found in btree_map("[a-e]", some_found(), 0..5),
            known in btree_map("[a-e]", some_known(), 0..5),
            works: bool,
        ) {
            let steps = plan(&found, &known);
            let mut then = known.clone();
            for (name, step) in steps {
                let known = then.remove(&name);
                if let Some(known) = after(step, found.get(&name), known, works) {
                    then.insert(name, known);
                }
            }
            prop_assert_eq!(plan(&found, &then), BTreeMap::new());
            for name in then.keys() {
                prop_assert!(found.contains_key(name));
            }
        }

        #[test]
        fn nothing_that_runs_is_touched_while_its_folder_changes(
            known in btree_map("[a-e]", some_known(), 0..5),
        ) {
            let found = known.keys().map(|name| (name.clone(), Found::Moving)).collect();
            prop_assert_eq!(plan(&found, &known), BTreeMap::new());
        }
    }

    #[test]
    fn a_zip_that_failed_is_tried_again_when_it_changes() {
        assert!(installs(&1, None));
        assert!(!installs(&1, Some(&1)));
        assert!(installs(&2, Some(&1)));
    }

    #[test]
    fn a_plugin_replaces_itself_three_times_a_minute_at_most() {
        let mut churn = Churn::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(churn.admits(at(0)) && churn.admits(at(10)) && churn.admits(at(20)));
        assert!(!churn.admits(at(30)) && !churn.admits(at(59)));
        assert!(churn.admits(at(60)) && !churn.admits(at(61)));
    }
}
