//! Whether the task of a pipe stays awake for the next message instead of going to sleep at once.
//!
//! That one process sleeps and another one wakes it costs more than a small message does, at both ends, and is most
//! of a round trip. A peer that writes each message by itself pays it every time if we are always asleep by then. So
//! the task of a pipe on which little comes at a time tries what happens if it looks again for some microseconds,
//! and goes on so only while that brings clearly more messages in the same time. With a peer that sends at its own
//! pace, or gathers more while we sleep, or needs the processor on which we would wait, it sleeps.
//!
//! Pure: the time comes in.
//!
//! ```text
//!   Asleep ──phase over──▶ Awake ──clearly faster: on, for longer──┐
//!    ▲ ▲                   │ ▲ └──────────────────────────────────┘
//!    │ └──no faster, or long waits: four times as long─┘
//!    └────the longest phase over: measure anew
//! ```

use std::time::{Duration, Instant};

/// How long the task stays awake for one message at most. Until the other end is awake as well, an answer takes as
/// long as waking it.
const LIMIT: Duration = Duration::from_micros(100);

/// Longer waits than this, on the average, cost more than they may.
const LONG: Duration = Duration::from_micros(50);

/// The weight of the average so far, against that of the last wait.
const WEIGHT: u32 = 7;

/// The length of the phases, in messages: the shortest and the longest.
const PHASE: (u32, u32) = (128, 16 * 1024);

/// A read that brings more messages or bytes than this comes from a peer that gathers them.
const FEW: (usize, usize) = (4, 32 * 1024);

/// The decision, for one pipe.
#[derive(Debug)]
pub(super) struct Vigil {
    is_awake: bool,
    /// How many messages this phase takes.
    length: u32,
    /// How long the last phase asleep was.
    pause: u32,
    /// Messages of this phase, and how long they took.
    messages: u32,
    elapsed: Duration,
    /// How long a message took in the last phase asleep.
    asleep: Duration,
    /// How long the task waits for a message in this phase, about. Begins with nothing, so that a few long waits
    /// do not end it.
    wait: Duration,
    last: Option<Instant>,
    /// Did little come with the last read?
    few: bool,
}

impl Vigil {
    pub(super) fn new() -> Self {
        Self {
            is_awake: false,
            length: PHASE.0,
            pause: PHASE.0,
            messages: 0,
            elapsed: Duration::ZERO,
            asleep: Duration::ZERO,
            wait: Duration::ZERO,
            last: None,
            few: false,
        }
    }

    /// A read has brought so many messages, of so many bytes together.
    pub(super) fn received(&mut self, messages: usize, bytes: usize, now: Instant) {
        // While a peer has nothing to send it says nothing about its pace.
        let wait = self.last.map_or(Duration::ZERO, |last| {
            now.saturating_duration_since(last).min(LIMIT)
        });
        self.last = Some(now);
        self.elapsed += wait;
        self.messages = self
            .messages
            .saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        if self.few {
            self.wait = (self.wait * WEIGHT + wait) / (WEIGHT + 1);
        }
        self.few = messages <= FEW.0 && bytes <= FEW.1;
        if self.is_awake && self.wait > LONG {
            self.give_up();
        } else if self.messages >= self.length {
            self.end_phase();
        }
    }

    /// Does the task stay awake?
    pub(super) fn goes_on(&self, now: Instant) -> bool {
        let soon = |last| now.saturating_duration_since(last) < LIMIT;
        self.is_awake && self.few && self.last.is_some_and(soon)
    }

    fn end_phase(&mut self) {
        let pace = self.elapsed / self.messages.max(1);
        if !self.is_awake {
            self.asleep = pace;
            self.begin(true, PHASE.0);
        } else if pace * 4 > self.asleep * 3 {
            self.give_up();
        } else {
            self.pause = PHASE.0;
            if self.length < PHASE.1 {
                self.begin(true, (self.length * 4).min(PHASE.1));
            } else {
                self.begin(false, self.pause);
            }
        }
    }

    fn give_up(&mut self) {
        self.pause = (self.pause * 4).min(PHASE.1);
        self.begin(false, self.pause);
    }

    fn begin(&mut self, is_awake: bool, length: u32) {
        self.is_awake = is_awake;
        self.length = length;
        self.messages = 0;
        self.elapsed = Duration::ZERO;
        self.wait = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `MESSAGES` messages are to a task that decides so.
    #[derive(Debug, Default)]
    struct Course {
        awake: u32,
        /// Waited for awake, whether they came in time or not.
        spent: Duration,
        took: Duration,
    }

    const MESSAGES: u32 = 200_000;

    /// `wait` says how long the next `count` messages take to come, if the task is awake or not.
    fn play(count: u32, bytes: usize, mut wait: impl FnMut(bool) -> u64) -> Course {
        let (mut vigil, mut course, begun) = (Vigil::new(), Course::default(), Instant::now());
        let mut now = begun;
        for _ in 0..MESSAGES / count {
            let awake = vigil.goes_on(now);
            let wait = Duration::from_micros(wait(awake));
            if awake {
                course.awake += count;
                course.spent += wait.min(LIMIT);
                assert!(!vigil.goes_on(now + LIMIT), "it is bounded");
            }
            now += wait;
            vigil.received(count as usize, bytes, now);
        }
        course.took = now - begun;
        course
    }

    #[test]
    fn it_stays_awake_where_that_is_faster() {
        let course = play(1, 64, |awake| if awake { 12 } else { 60 });
        assert!(course.awake > MESSAGES / 20 * 19, "{course:?}");
    }

    #[test]
    fn it_sleeps_where_the_peer_keeps_its_own_pace() {
        for pace in [1, 20, 49, 90, 10_000] {
            let course = play(1, 64, |_| pace);
            assert!(course.awake < MESSAGES / 50, "{pace} µs: {course:?}");
            assert!(course.spent < course.took / 50, "{pace} µs: {course:?}");
        }
    }

    #[test]
    fn it_sleeps_where_the_peer_needs_the_processor() {
        let course = play(1, 64, |awake| if awake { 100 } else { 8 });
        assert!(course.spent < course.took / 100, "{course:?}");
    }

    #[test]
    fn it_sleeps_where_the_peer_gathers() {
        let course = play(5, 320, |_| 1);
        assert_eq!(course.awake, 0);
        let course = play(1, 64 * 1024, |_| 1);
        assert_eq!(course.awake, 0);
    }

    #[test]
    fn it_finds_out_when_things_change() {
        for (asleep, awake) in [(60, 12), (10, 100)] {
            let mut sent = 0;
            let mut late = 0;
            play(1, 64, |is_awake| {
                sent += 1;
                let changed = sent > MESSAGES / 2;
                late += u32::from(sent > MESSAGES / 4 * 3 && is_awake);
                match (changed, is_awake) {
                    (false, false) => awake,
                    (false, true) => asleep,
                    (true, false) => asleep,
                    (true, true) => awake,
                }
            });
            let faster = awake < asleep;
            assert_eq!(late > MESSAGES / 4 / 10 * 9, faster);
            assert_eq!(late < MESSAGES / 4 / 10, !faster);
        }
    }
}
