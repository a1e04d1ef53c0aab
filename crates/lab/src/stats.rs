//! Means with 95 % intervals, and differences between two policies over the same samples.
//!
//! Intervals are percentile bootstraps, at every number of samples: scores are bounded, skewed
//! and often 0 or 1, where a normal interval leaves the range. What a bootstrap cannot know: with
//! fewer than about 10 samples it is too narrow, and equal samples give it no width at all. The
//! cost is [`RESAMPLES`] draws per sample.

use serde::{Deserialize, Serialize};

use crate::dice::Dice;

/// Enough that another seed moves a bound by a few hundredths of the width.
pub const RESAMPLES: usize = 2000;

/// A mean and where it would lie in 95 % of cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Of the samples.
    pub mean: f64,
    /// 2.5 % of the resampled means lie below; equal to `mean` for one sample.
    pub low: f64,
    /// 2.5 % of the resampled means lie above; equal to `mean` for one sample.
    pub high: f64,
    /// How many samples there are.
    pub samples: usize,
}

/// How one policy does against another on the samples that both answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// First minus second, per sample. An interval without 0 is a difference.
    pub difference: Interval,
    /// Samples where the first is greater.
    pub greater: usize,
    /// Samples where the first is less.
    pub less: usize,
}

/// The mean of `values`; None if there are none, or one is not finite.
pub fn mean(values: &[f64], seed: u64) -> Option<Interval> {
    mean_of_means(&[values], seed)
}

/// The mean of the groups' means: every task counts alike, whatever its number of samples. Each
/// group is resampled by itself. None if there are no groups, or one is empty or has a value that
/// is not finite.
pub fn mean_of_means(groups: &[&[f64]], seed: u64) -> Option<Interval> {
    let usable = |group: &&[f64]| !group.is_empty() && group.iter().all(|value| value.is_finite());
    if groups.is_empty() || !groups.iter().all(usable) {
        return None;
    }
    let count = groups.len() as f64;
    let plain = |group: &&[f64]| group.iter().sum::<f64>() / group.len() as f64;
    let mean = groups.iter().map(plain).sum::<f64>() / count;
    let samples = groups.iter().map(|group| group.len()).sum();
    if groups.iter().all(|group| group.len() == 1) {
        return Some(Interval {
            mean,
            low: mean,
            high: mean,
            samples,
        });
    }
    let mut dice = Dice::new(seed, "bootstrap");
    let means = (0..RESAMPLES).map(|_| {
        let resampled = |group: &&[f64]| {
            let sum: f64 = (0..group.len()).map(|_| *dice.pick(group)).sum();
            sum / group.len() as f64
        };
        groups.iter().map(resampled).sum::<f64>() / count
    });
    Some(interval(mean, means.collect(), samples))
}

/// The middle 95 % of what resampling gave.
fn interval(mean: f64, mut resampled: Vec<f64>, samples: usize) -> Interval {
    resampled.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    Interval {
        mean,
        low: resampled[tail],
        high: resampled[RESAMPLES - 1 - tail],
        samples,
    }
}

/// The mean of the first numbers over the mean of the second ones; each pair is of one sample. None as in
/// [`mean`], or if the second mean is not above zero.
pub fn ratio(pairs: &[(f64, f64)], seed: u64) -> Option<Interval> {
    let finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let of = |pairs: &mut dyn Iterator<Item = (f64, f64)>| {
        let (first, second) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        first / second
    };
    let mean = of(&mut pairs.iter().copied());
    if pairs.is_empty() || !pairs.iter().all(finite) || !mean.is_finite() {
        return None;
    }
    let mut dice = Dice::new(seed, "bootstrap");
    let ratios = (0..RESAMPLES).map(|_| of(&mut (0..pairs.len()).map(|_| *dice.pick(pairs))));
    Some(interval(mean, ratios.collect(), pairs.len()))
}

/// Compares two policies; each pair is what they made of one sample. Pairing takes out how hard
/// the samples are, so it finds differences that two separate intervals hide. None as in [`mean`].
pub fn paired(pairs: &[(f64, f64)], seed: u64) -> Option<Paired> {
    let differences: Vec<f64> = pairs.iter().map(|(first, second)| first - second).collect();
    Some(Paired {
        difference: mean(&differences, seed)?,
        greater: differences.iter().filter(|d| **d > 0.0).count(),
        less: differences.iter().filter(|d| **d < 0.0).count(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_and_odd_numbers_have_no_mean() {
        assert_eq!(mean(&[], 1), None);
        assert_eq!(mean(&[1.0, f64::NAN], 1), None);
        assert_eq!(mean(&[f64::INFINITY], 1), None);
        assert_eq!(mean_of_means(&[], 1), None);
        assert_eq!(mean_of_means(&[&[1.0], &[]], 1), None);
        assert_eq!(paired(&[], 1), None);
    }

    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        // 400 samples, half 1 and half 0: the standard error is 0.5 / 20, and 1.96 of it 0.049.
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let found = mean(&values, 1).unwrap();
        assert_eq!((found.mean, found.samples), (0.5, 400));
        // The bounds of 2000 resamples scatter by about 3 % of the width.
        assert!((found.low - 0.451).abs() < 0.006, "{found:?}");
        assert!((found.high - 0.549).abs() < 0.006, "{found:?}");
    }

    #[test]
    fn about_95_of_100_intervals_hold_the_truth() {
        let mut held = 0;
        for seed in 0..200 {
            let mut dice = Dice::new(seed, "truth");
            let values: Vec<f64> = (0..60).map(|_| dice.below(1001) as f64 / 1000.0).collect();
            let found = mean(&values, seed).unwrap();
            held += usize::from((found.low..=found.high).contains(&0.5));
        }
        // 190 expected, with a standard deviation of 3.
        assert!((180..=199).contains(&held), "{held} of 200");
    }

    #[test]
    fn pairing_finds_what_separate_intervals_hide() {
        let mut dice = Dice::new(3, "hard");
        let easy: Vec<f64> = (0..50).map(|_| dice.below(90) as f64 / 100.0).collect();
        let pairs: Vec<(f64, f64)> = easy.iter().map(|&score| (score + 0.05, score)).collect();
        let found = paired(&pairs, 1).unwrap();
        assert!(found.difference.low > 0.04, "{found:?}");
        assert_eq!((found.greater, found.less), (50, 0));
        let better: Vec<f64> = easy.iter().map(|score| score + 0.05).collect();
        assert!(mean(&better, 1).unwrap().low < mean(&easy, 1).unwrap().high);
    }

    #[test]
    fn a_ratio_is_one_of_means() {
        let found = ratio(&[(1.0, 2.0), (3.0, 6.0), (0.0, 0.0)], 1).unwrap();
        assert_eq!(found.mean, 0.5);
        let found = ratio(&[(1.0, 1.0), (1.0, 3.0)], 1).unwrap();
        assert_eq!((found.mean, found.samples), (0.5, 2));
        assert!(found.low < 0.5 && found.high == 1.0, "{found:?}");
        assert_eq!(ratio(&[(1.0, 0.0)], 1), None);
        assert_eq!(ratio(&[], 1), None);
    }

    #[test]
    fn every_group_counts_alike() {
        let found = mean_of_means(&[&[1.0; 10], &[0.0; 90]], 1).unwrap();
        assert_eq!((found.mean, found.samples), (0.5, 100));
    }

    proptest! {
        #[test]
        fn bounds_lie_among_the_values_and_depend_on_the_seed_only(
            values in proptest::collection::vec(-5.0_f64..5.0, 1..20),
            seed: u64,
        ) {
            let found = mean(&values, seed).unwrap();
            prop_assert_eq!(found, mean(&values, seed).unwrap());
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Sums round.
            prop_assert!(least - 1e-9 <= found.low && found.high <= most + 1e-9);
            prop_assert!(found.low <= found.high);
        }
    }
}
