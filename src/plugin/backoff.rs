//! Owns how long a plugin that failed has to wait for its next process, and when the host gives up.
//! Pure: time and randomness come in as arguments; the life cycle drives it.

use std::time::Duration;

/// A process that was up this long was healthy: earlier failures no longer count.
const STABLE: Duration = Duration::from_secs(60);

/// Consecutive failures of one plugin, and the delay that grows with them.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    limit: u32,
    failures: u32,
}

impl Backoff {
    /// Delays grow from `min` to `max`; the failure number `limit` is the last one.
    pub(super) fn new(min: Duration, max: Duration, limit: u32) -> Self {
        Self {
            min,
            max: max.max(min),
            limit,
            failures: 0,
        }
    }

    /// Notes a failure of a process that had been running for `up`. Returns the delay before the next try,
    /// or `None` when it is time to give up. `random` is in `0.0..1.0` and spreads plugins that fail together
    /// over the second half of the delay.
    pub(super) fn handle_failure(&mut self, up: Duration, random: f64) -> Option<Duration> {
        if up >= STABLE {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.limit {
            return None;
        }
        let doublings = (self.failures - 1).min(31);
        let delay = self.min.saturating_mul(1 << doublings).min(self.max);
        Some(delay.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
    }

    /// Consecutive failures so far.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The number of the failure at which it gives up.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Forgets all failures: somebody asked for a fresh start.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn the_delay_doubles_up_to_the_most_and_then_it_gives_up() {
        let mut backoff = Backoff::new(MIN, Duration::from_millis(350), 5);
        let delays: Vec<_> = std::iter::repeat_with(|| backoff.handle_failure(Duration::ZERO, 1.0))
            .take(5)
            .collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(delays, [ms(100), ms(200), ms(350), ms(350), None]);
        assert_eq!(backoff.failures(), 5);
    }

    #[test]
    fn a_stable_minute_forgives() {
        let mut backoff = Backoff::new(MIN, MAX, 3);
        backoff.handle_failure(Duration::ZERO, 0.0);
        backoff.handle_failure(Duration::ZERO, 0.0);
        assert_eq!(backoff.handle_failure(STABLE, 1.0), Some(MIN));
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn with_a_limit_of_one_or_none_nothing_is_tried_again() {
        for limit in [0, 1] {
            assert_eq!(
                Backoff::new(MIN, MAX, limit).handle_failure(Duration::ZERO, 0.5),
                None
            );
        }
    }

    proptest! {
        #[test]
        fn delays_stay_within_half_the_least_and_the_most(failures in 1u32..80, random in 0.0f64..1.0) {
            let mut backoff = Backoff::new(MIN, MAX, u32::MAX);
            for _ in 0..failures {
                let delay = backoff.handle_failure(Duration::ZERO, random).unwrap();
                prop_assert!(delay >= MIN / 2 && delay <= MAX, "{delay:?}");
            }
        }
    }
}
