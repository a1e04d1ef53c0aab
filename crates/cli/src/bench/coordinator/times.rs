//! How long requests took, in memory that does not grow with them.

use std::time::Duration;

/// Of a bucket. Longer times than all buckets together count as the longest.
const BUCKET: Duration = Duration::from_micros(10);
const BUCKETS: usize = 100_000;

/// Counts by time, to a hundredth of a millisecond.
pub(super) struct Times {
    buckets: Vec<u32>,
    count: u64,
}

impl Times {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }

    pub(super) fn add(&mut self, time: Duration) {
        let bucket = time.div_duration_f64(BUCKET) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What a share of them, 0 to 1, took at most, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.count as f64;
        let mut passed = 0;
        let found = self.buckets.iter().position(|&count| {
            passed += u64::from(count);
            passed as f64 >= wanted
        });
        let buckets = found.map_or(0, |bucket| bucket + 1) as u32;
        (BUCKET * buckets).as_secs_f64() * 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_times_are_found_to_a_hundredth_of_a_millisecond() {
        let mut times = Times::new();
        (1..=100).for_each(|ms| times.add(Duration::from_millis(ms) - Duration::from_micros(1)));
        assert_eq!(times.count(), 100);
        assert_eq!(
            [0.5, 0.99, 1.0].map(|share| times.quantile(share)),
            [50.0, 99.0, 100.0]
        );
        times.add(Duration::from_secs(60));
        assert_eq!(times.quantile(1.0), 1000.0);
    }
}
