//! Where values lie.

use std::time::Duration;

use serde::Serialize;

use super::record::in_millis;

/// Percentiles of times, each one of the values (nearest rank), in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: usize,
    /// Half are at most this.
    pub p50: f64,
    /// 90 of 100 are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// None if there are no values.
    pub fn of(values: impl IntoIterator<Item = Duration>) -> Option<Percentiles> {
        let mut sorted: Vec<Duration> = values.into_iter().collect();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            in_millis(sorted[rank - 1])
        };
        Some(Percentiles {
            count: sorted.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: in_millis(max),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(values: &[u64], expected: [f64; 4]) {
        let found = Percentiles::of(values.iter().map(|ms| Duration::from_millis(*ms))).unwrap();
        assert_eq!([found.p50, found.p90, found.p99, found.max], expected);
        assert_eq!(found.count, values.len());
    }

    #[test]
    fn a_percentile_is_the_smallest_value_that_enough_do_not_exceed() {
        assert_eq!(Percentiles::of([]), None);
        check(&[7], [7.0; 4]);
        check(&[2, 1], [1.0, 2.0, 2.0, 2.0]);
        let hundred: Vec<u64> = (1..=100).rev().collect();
        check(&hundred, [50.0, 90.0, 99.0, 100.0]);
        let thousand: Vec<u64> = (1..=1000).collect();
        check(&thousand, [500.0, 900.0, 990.0, 1000.0]);
    }

    proptest! {
        #[test]
        fn percentiles_ascend_and_enough_values_lie_below(
            values in proptest::collection::vec(0_u64..10_000, 1..200),
        ) {
            let found = Percentiles::of(values.iter().map(|ms| Duration::from_millis(*ms))).unwrap();
            prop_assert!(found.p50 <= found.p90 && found.p90 <= found.p99 && found.p99 <= found.max);
            for (percent, bound) in [(50, found.p50), (90, found.p90), (99, found.p99)] {
                let below = values.iter().filter(|ms| **ms as f64 <= bound).count();
                prop_assert!(below * 100 >= values.len() * percent);
                let less = values.iter().filter(|ms| (**ms as f64) < bound).count();
                prop_assert!(less * 100 < values.len() * percent);
            }
        }
    }
}
