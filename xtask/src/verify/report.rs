//! Owns what a run prints: a heading and a result for each step, the list of what was skipped, and the
//! closing line, which graders read.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What came of one step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// With the whole reason, such as a tool's output.
    Failed(String),
    /// This machine cannot run it; with the reason.
    Skipped(String),
}

/// The run so far.
pub(crate) struct Report {
    steps: usize,
    current: &'static str,
    started: Instant,
    finished: Vec<(&'static str, Outcome, Duration)>,
    /// Tests that couldn't run on this machine, by name.
    tests: BTreeSet<String>,
}

impl Report {
    pub(crate) fn new(steps: usize) -> Self {
        Self {
            steps,
            current: "",
            started: Instant::now(),
            finished: Vec::with_capacity(steps),
            tests: BTreeSet::new(),
        }
    }

    pub(crate) fn start(&mut self, name: &'static str) {
        self.current = name;
        self.started = Instant::now();
        println!("==> [{:>2}/{}] {name}", self.finished.len() + 1, self.steps);
    }

    pub(crate) fn end(&mut self, outcome: Outcome) {
        let took = self.started.elapsed();
        let seconds = took.as_secs_f64();
        match &outcome {
            Outcome::Passed => println!("    passed in {seconds:.1} s"),
            Outcome::Failed(reason) => println!("{reason}\n    FAILED in {seconds:.1} s"),
            Outcome::Skipped(reason) => println!("    skipped: {reason}"),
        }
        self.finished.push((self.current, outcome, took));
    }

    /// Adds the tests that could not run, as the test kit has written them.
    pub(crate) fn skipped_in_tests<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        self.tests.extend(lines.map(str::to_owned));
    }

    /// Prints the summary, whose last line is the count.
    pub(crate) fn close(self, in_ci: bool) -> ExitCode {
        println!("\nSummary");
        for (name, outcome, took) in &self.finished {
            let word = match outcome {
                Outcome::Passed => "passed",
                Outcome::Failed(_) => "FAILED",
                Outcome::Skipped(_) => "skipped",
            };
            println!("  {word:<8} {:>6.1} s  {name}", took.as_secs_f64());
        }
        let skips = self.skips();
        if !skips.is_empty() {
            println!("\nSkipped, because this machine lacks what it needs:");
            for skip in &skips {
                println!("  {skip}");
            }
            if in_ci {
                println!("In continuous integration (CI=true) a skip is a failure.");
            }
        }
        println!("\n{}", self.count());
        if self.succeeded(in_ci) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn skips(&self) -> Vec<String> {
        let steps = self
            .finished
            .iter()
            .filter_map(|(name, outcome, _)| match outcome {
                Outcome::Skipped(reason) => Some(format!("{name}: {reason}")),
                _ => None,
            });
        steps.chain(self.tests.iter().cloned()).collect()
    }

    fn count(&self) -> String {
        let of = |wanted: fn(&Outcome) -> bool| self.finished.iter().filter(|step| wanted(&step.1)).count();
        let passed = of(|outcome| *outcome == Outcome::Passed);
        let failed = of(|outcome| matches!(outcome, Outcome::Failed(_)));
        format!("{passed} passed, {failed} failed, {} skipped", self.skips().len())
    }

    fn succeeded(&self, in_ci: bool) -> bool {
        let failed = |step: &(_, Outcome, _)| matches!(step.1, Outcome::Failed(_));
        let complete = self.skips().is_empty();
        !self.finished.iter().any(failed) && (complete || !in_ci)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: Vec<Outcome>) -> Report {
        let mut report = Report::new(outcomes.len());
        for outcome in outcomes {
            report.start("a step");
            report.end(outcome);
        }
        report
    }

    #[test]
    fn the_closing_line_counts_steps_and_every_skip() {
        let mut report = report(vec![
            Outcome::Passed,
            Outcome::Passed,
            Outcome::Skipped("no rustfmt".to_owned()),
        ]);
        report.skipped_in_tests(["interop: nngcat: not installed"].into_iter());
        assert_eq!(report.count(), "2 passed, 0 failed, 2 skipped");
        assert_eq!(
            report.skips(),
            ["a step: no rustfmt", "interop: nngcat: not installed"]
        );
    }

    #[test]
    fn a_skip_fails_only_in_ci_and_a_failure_always() {
        let skipped = report(vec![Outcome::Skipped("no rustfmt".to_owned())]);
        assert!(skipped.succeeded(false) && !skipped.succeeded(true));
        let mut test_skipped = report(vec![Outcome::Passed]);
        test_skipped.skipped_in_tests(["interop: nngcat: not installed"].into_iter());
        assert!(test_skipped.succeeded(false) && !test_skipped.succeeded(true));
        let failed = report(vec![Outcome::Failed("no".to_owned()), Outcome::Passed]);
        assert!(!failed.succeeded(false));
        assert!(report(vec![Outcome::Passed]).succeeded(true));
    }
}
