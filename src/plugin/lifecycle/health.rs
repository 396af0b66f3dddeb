//! Owns what is known of a running process's health: what it has not answered, and whether its keep-alives
//! still come. Pure; the life of one process drives it.
//!
//! Nothing is assumed. A plugin without keep-alives is judged by its answers and by its process; one that has
//! sent two of them is expected to go on, in its own rhythm.

use std::time::{Duration, Instant};

/// So many periods without a keep-alive are silence.
const MISSED: u32 = 3;

/// Silence shorter than this is nothing to talk about, however quick the keep-alives were.
const LEAST: Duration = Duration::from_secs(1);

/// The health of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    heard: Option<Instant>,
    /// The shortest time between two messages of which the later one was a keep-alive: a busy plugin is late.
    period: Option<Duration>,
    keep_alives: u32,
    /// It has missed its keep-alives for this long.
    silent: Option<Duration>,
    /// It has not answered a ping for this long.
    deaf: Option<Duration>,
    /// A command was given up, at this time.
    unanswered: Option<(String, Instant)>,
    /// A call was given up.
    late: Option<String>,
    /// Its process is stopped, as SIGSTOP does.
    halted: bool,
}

impl Health {
    /// Something came over the control channel. `was_waiting`: it had nothing to answer, so a handshake is a
    /// keep-alive.
    pub(super) fn note_message(&mut self, now: Instant, is_handshake: bool, was_waiting: bool) {
        if let Some(heard) = self.heard
            && is_handshake
            && was_waiting
            && self.silent.is_none()
        {
            self.keep_alives = self.keep_alives.saturating_add(1);
            let gap = now.saturating_duration_since(heard);
            self.period = Some(self.period.map_or(gap, |period| period.min(gap)));
        }
        self.note_heard(now);
    }

    /// It is alive.
    pub(super) fn note_heard(&mut self, now: Instant) {
        self.heard = Some(now);
        self.silent = None;
        self.deaf = None;
        self.unanswered = None;
    }

    /// It has not answered a ping.
    pub(super) fn note_deaf(&mut self, limit: Duration) {
        self.deaf = Some(limit);
    }

    /// A command was given up.
    pub(super) fn note_unanswered(&mut self, command: String, now: Instant) {
        self.unanswered.get_or_insert((command, now));
    }

    /// A call of a function was given up, or answered after all.
    pub(super) fn note_late(&mut self, function: Option<String>) {
        self.late = function;
    }

    /// The process was found stopped, or running.
    pub(super) fn note_halted(&mut self, halted: bool) {
        self.halted = halted;
    }

    /// Whether it was found stopped.
    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// A command was given up and nothing was heard since.
    pub(super) fn unanswered(&self) -> Option<(&str, Instant)> {
        let (command, since) = self.unanswered.as_ref()?;
        Some((command, *since))
    }

    /// When [`Health::handle_tick`] has something to find out. `is_waiting`: it has nothing to answer.
    pub(super) fn deadline(&self, is_waiting: bool) -> Option<Instant> {
        let expected = is_waiting && self.keep_alives >= 2 && self.silent.is_none();
        Some(self.heard.filter(|_| expected)? + self.limit())
    }

    /// Time has passed.
    pub(super) fn handle_tick(&mut self, now: Instant, is_waiting: bool) {
        if self.deadline(is_waiting).is_some_and(|deadline| now >= deadline) {
            self.silent = Some(self.limit());
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.halted {
            return Some("its process is stopped by a signal".to_owned());
        }
        if let Some((command, _)) = &self.unanswered {
            return Some(format!("it has not answered the command {command}"));
        }
        if let Some(limit) = self.silent {
            return Some(format!("it has sent no keep-alive for {limit:.1?}"));
        }
        if let Some(limit) = self.deaf {
            return Some(format!("it has not answered a ping within {limit:.1?}"));
        }
        let function = self.late.as_ref()?;
        Some(format!("the function \"{function}\" has not answered a call"))
    }

    fn limit(&self) -> Duration {
        (self.period.unwrap_or_default() * MISSED).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keep_alives_are_missed_once_two_were_seen() {
        let start = Instant::now();
        let mut health = Health::default();
        for (second, expected) in [(0, None), (5, None), (10, Some(25))] {
            let now = start + second * SECOND;
            health.note_message(now, true, true);
            assert_eq!(health.deadline(true), expected.map(|at: u32| start + at * SECOND));
        }
        assert_eq!(health.deadline(false), None, "it works at a command");
        health.handle_tick(start + 24 * SECOND, true);
        assert_eq!(health.complaint(), None);
        health.handle_tick(start + 25 * SECOND, true);
        assert_eq!(health.complaint().unwrap(), "it has sent no keep-alive for 15.0s");
        health.note_message(start + 100 * SECOND, true, true);
        assert_eq!(health.complaint(), None);
        assert_eq!(
            health.deadline(true),
            Some(start + 115 * SECOND),
            "the gap is no period"
        );
    }

    #[test]
    fn a_plugin_without_keep_alives_is_judged_by_its_answers() {
        let start = Instant::now();
        let mut health = Health::default();
        health.note_message(start, true, true);
        health.note_message(start + SECOND, false, false);
        assert_eq!(health.deadline(true), None);
        health.note_unanswered("stop sink \"s\"".to_owned(), start + SECOND);
        assert_eq!(
            health.complaint().unwrap(),
            "it has not answered the command stop sink \"s\""
        );
        health.note_message(start + 2 * SECOND, false, false);
        assert_eq!(health.complaint(), None);
        health.note_late(Some("slug".to_owned()));
        assert!(health.complaint().unwrap().contains("\"slug\""));
        health.note_late(None);
        health.note_halted(true);
        assert!(health.complaint().unwrap().contains("stopped by a signal"));
    }
}
