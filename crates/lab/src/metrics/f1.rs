//! F1 over bags of tokens.

use std::collections::HashMap;
use std::hash::Hash;

use super::normal::{characters, normalize};

pub(super) fn token_f1(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (normalize(prediction), normalize(reference));
    let words = |text: &'_ str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    bag_f1(&words(&prediction), &words(&reference))
}

pub(super) fn char_f1(prediction: &str, reference: &str) -> f64 {
    bag_f1(&characters(prediction), &characters(reference))
}

/// `2pr / (p + r)` with the size of the common bag over each side; 0 if nothing is common, also
/// for two empty sides.
pub(super) fn bag_f1<T: Eq + Hash>(prediction: &[T], reference: &[T]) -> f64 {
    let mut left: HashMap<&T, usize> = HashMap::new();
    for token in reference {
        *left.entry(token).or_default() += 1;
    }
    let mut common = 0;
    for token in prediction {
        if let Some(count) = left.get_mut(token).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    harmonic(common, prediction.len(), reference.len())
}

/// F1 of `common` out of `predicted` and `expected`.
pub(super) fn harmonic(common: usize, predicted: usize, expected: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / predicted as f64;
    let recall = common as f64 / expected as f64;
    2.0 * precision * recall / (precision + recall)
}
