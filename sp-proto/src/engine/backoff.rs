//! How long a dialer waits before it tries again. Pure: randomness and time are arguments.

use std::time::Duration;

/// Nobody waits longer, whatever the options say; so no doubling overflows.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Delays that double from a least to a most, each with jitter so that a thousand dialers do not come back at
/// once.
#[derive(Debug)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        let least = least.clamp(Duration::from_millis(1), A_YEAR);
        Self {
            least,
            most: most.clamp(least, A_YEAR),
            next: least,
        }
    }

    /// The next delay, between half of it and all of it; `random` is in `0.0..1.0`.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        delay.mul_f64(0.5 + random / 2.0)
    }

    /// Notes that a connection lived for `lived`. Only one that outlived the delay before it starts over: a
    /// peer that accepts and hangs up at once is no better than one that refuses.
    pub(crate) fn note_connection(&mut self, lived: Duration) {
        if lived >= self.next {
            self.next = self.least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delays_double_up_to_the_most() {
        let mut backoff = Backoff::new(100 * MS, 500 * MS);
        let delays: Vec<_> = (0..5).map(|_| backoff.next(1.0)).collect();
        assert_eq!(delays, [100 * MS, 200 * MS, 400 * MS, 500 * MS, 500 * MS]);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        assert_eq!(Backoff::new(100 * MS, 500 * MS).next(0.0), 50 * MS);
    }

    #[test]
    fn only_a_connection_that_lasted_starts_over() {
        let mut backoff = Backoff::new(100 * MS, 500 * MS);
        backoff.next(1.0);
        backoff.note_connection(10 * MS);
        assert_eq!(backoff.next(1.0), 200 * MS);
        backoff.note_connection(1000 * MS);
        assert_eq!(backoff.next(1.0), 100 * MS);
    }

    #[test]
    fn limits_that_make_no_sense_are_mended() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(backoff.next(1.0), MS);
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!([backoff.next(1.0), backoff.next(1.0)], [A_YEAR; 2]);
    }
}
