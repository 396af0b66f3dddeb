//! Owns how many lines of one plugin go into the host's log. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// Allows a burst, and a steady rate after it.
#[derive(Debug)]
pub(super) struct Throttle {
    burst: u32,
    /// Between two that are allowed at the steady rate.
    interval: Duration,
    left: u32,
    /// Since when there may be more left than `left` says.
    since: Instant,
    refused: u64,
}

impl Throttle {
    /// `per_second` is at least 1.
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            burst,
            interval: (Duration::from_secs(1) / per_second.max(1)).max(Duration::from_nanos(1)),
            left: burst,
            since: now,
            refused: 0,
        }
    }

    /// `None`: not now. Else how many were refused since the last time.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_nanos() / self.interval.as_nanos();
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        if self.left.saturating_add(earned) >= self.burst {
            self.left = self.burst;
            self.since = now;
        } else {
            self.left += earned;
            self.since += self.interval * earned;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.refused))
            }
            None => {
                self.refused += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_a_steady_rate_and_what_was_refused_is_told() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throttle = Throttle::new(3, 10, start);
        let allowed =
            |throttle: &mut Throttle, ms| (0..100).filter_map(|_| throttle.take(at(ms))).collect::<Vec<_>>();
        assert_eq!(allowed(&mut throttle, 0), [0, 0, 0]);
        assert!(allowed(&mut throttle, 99).is_empty());
        assert_eq!(allowed(&mut throttle, 100), [197]);
        assert_eq!(allowed(&mut throttle, 350), [99, 0], "half an interval is kept");
        assert_eq!(allowed(&mut throttle, 400), [98]);
        assert_eq!(
            allowed(&mut throttle, 1_000_000),
            [99, 0, 0],
            "never more than the burst"
        );
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_far_does_no_harm() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1, u32::MAX, start);
        assert_eq!(throttle.take(start), Some(0));
        assert_eq!(throttle.take(start), None);
        assert_eq!(throttle.take(start + Duration::from_secs(1 << 32)), Some(1));
    }
}
