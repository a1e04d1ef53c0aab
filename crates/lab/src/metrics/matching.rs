//! Answers that must be there literally.

use super::mark;
use super::normal::normalize;

pub(super) fn exact(prediction: &str, reference: &str) -> f64 {
    mark(normalize(prediction) == normalize(reference))
}

pub(super) fn contains(prediction: &str, reference: &str) -> f64 {
    mark(
        prediction
            .to_lowercase()
            .contains(&reference.to_lowercase()),
    )
}

pub(super) fn all_of(prediction: &str, references: &[String]) -> f64 {
    if references.is_empty() {
        return 0.0;
    }
    let prediction = prediction.to_lowercase();
    let found = references
        .iter()
        .filter(|reference| prediction.contains(&reference.to_lowercase()));
    found.count() as f64 / references.len() as f64
}

pub(super) fn word(prediction: &str, reference: &str) -> f64 {
    mark(words(prediction).any(|word| word == reference))
}

pub(super) fn upper_word(prediction: &str, reference: &str) -> f64 {
    mark(words(prediction).any(|word| word.to_uppercase() == reference))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ":\"'.,?!{}".contains(c))
        .filter(|word| !word.is_empty())
}
