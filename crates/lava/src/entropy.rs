//! The uncertainty of a layer: how widely its scores are spread, and what that weighs.

use crate::LayerWeight;

/// One in Q20 fixed point.
pub const ONE_Q20: u32 = 1 << 20;

/// Keeps logarithm and quotient finite; the authors' constant.
const EPSILON: f64 = 1e-16;

/// Shannon entropy of one layer's scores `[Hkv, n]`, all heads together, divided by `ln(Hkv · n)`:
/// in `[0, 1]`. The paper divides by `Hkv · N`, which gives the same budgets but has no upper bound
/// of one, and the certain share of a budget rests on that bound.
///
/// Scores are finite and not negative. All zero, or fewer than two, gives 0.
pub fn entropy(scores: &[f32]) -> f64 {
    if scores.len() < 2 {
        return 0.0;
    }
    let sum = scores.iter().map(|&s| f64::from(s)).sum::<f64>() + EPSILON;
    let mut entropy = 0.0;
    for &score in scores {
        let p = f64::from(score) / sum;
        entropy -= p * (p + EPSILON).ln();
    }
    (entropy / (scores.len() as f64).ln()).clamp(0.0, 1.0)
}

/// A number of `[0, 1]` in Q20, rounded half to even, in `1..=ONE_Q20`: never zero, because budgets
/// are shares of a sum.
pub fn in_q20(weight: f64) -> u32 {
    let one = f64::from(ONE_Q20);
    (weight * one).round_ties_even().clamp(1.0, one) as u32
}

/// The weight, in `[0, 1]`, of a layer with `entries` scores of this [`entropy`].
pub(crate) fn layer_weight(weight: LayerWeight, entropy: f64, entries: usize) -> f64 {
    match weight {
        LayerWeight::Entropy => entropy,
        LayerWeight::Uniform => 1.0,
        LayerWeight::Perplexity => ((entropy - 1.0) * (entries as f64).ln()).exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_have_entropy_one() {
        for len in [2, 3, 7, 1000, 100_003] {
            let e = entropy(&vec![0.125; len]);
            // Each logarithm is off by EPSILON · len.
            assert!((e - 1.0).abs() < 1e-9, "{len}: {e}");
            assert_eq!(in_q20(e), ONE_Q20);
        }
    }

    #[test]
    fn one_hot_and_zero_scores_have_entropy_zero_but_a_share() {
        let mut scores = vec![0.0; 50];
        assert_eq!(in_q20(entropy(&scores)), 1);
        scores[17] = 3.0;
        assert!(entropy(&scores) < 1e-15);
        assert_eq!(in_q20(entropy(&scores)), 1);
    }

    #[test]
    fn half_of_the_entries_sharing_the_mass_gives_the_log_of_half() {
        let scores: Vec<f32> = (0..64).map(|i| (i % 2) as f32).collect();
        assert!((entropy(&scores) - 32f64.ln() / 64f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn scores_at_the_ends_of_the_range_of_f32_have_a_finite_entropy() {
        for scores in [
            [f32::MAX; 4],
            [f32::MIN_POSITIVE; 4],
            [1e-45, f32::MAX, 0.0, -0.0],
        ] {
            assert!((0.0..=1.0).contains(&entropy(&scores)), "{scores:?}");
        }
    }

    #[test]
    fn perplexity_is_the_share_of_entries_that_share_the_mass() {
        let scores: Vec<f32> = (0..64).map(|i| if i < 16 { 1.0 } else { 0.0 }).collect();
        let weight = layer_weight(LayerWeight::Perplexity, entropy(&scores), 64);
        assert!((weight - 0.25).abs() < 1e-12);
        assert_eq!(layer_weight(LayerWeight::Perplexity, 1.0, 64), 1.0);
    }

    #[test]
    fn a_lone_entry_has_entropy_zero() {
        assert_eq!(entropy(&[2.0]), 0.0);
        assert_eq!(entropy(&[]), 0.0);
    }
}
