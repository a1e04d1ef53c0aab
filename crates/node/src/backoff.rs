//! How long to wait before something is tried again.

use std::time::Duration;

/// Pauses that double with each failure in a row, up to a bound, and are spread at random so that many
/// who failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest pause after the first failure.
    pub first: Duration,
    /// Longest pause of all.
    pub most: Duration,
}

impl Backoff {
    /// The pause after the `failures`-th failure in a row, from 1: between half of the longest one and all
    /// of it, as `random` says.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.first.saturating_mul(1 << doublings).min(self.most);
        let share = random as f64 / u64::MAX as f64;
        longest.mul_f64(0.5 + 0.5 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_are_spread_over_the_upper_half() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            most: Duration::from_millis(500),
        };
        for (failures, longest) in [
            (0, 100),
            (1, 100),
            (2, 200),
            (3, 400),
            (4, 500),
            (1000, 500),
        ] {
            let longest = Duration::from_millis(longest);
            assert_eq!(backoff.pause(failures, u64::MAX), longest);
            assert_eq!(backoff.pause(failures, 0), longest / 2);
            let middle = backoff.pause(failures, u64::MAX / 2);
            assert!(longest / 2 < middle && middle < longest);
        }
    }
}
