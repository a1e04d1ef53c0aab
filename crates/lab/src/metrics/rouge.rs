//! ROUGE (Lin 2004) as the two packages that the benchmarks use define it.

use std::collections::{HashMap, HashSet};

use super::f1::{bag_f1, harmonic};
use super::lcs::{self, TOKENS_MAX, Tie};

/// Package `rouge`: sentences end at full stops, words at white space, case and punctuation count.
/// The hits are the *different* words of all longest common subsequences of any two sentences,
/// over the different words of each side. White space after the last full stop is a sentence of
/// one empty word there, and so it is here. It gives up on long sentences (recursion), we do not.
pub(super) fn rouge_l(prediction: &str, reference: &str) -> f64 {
    let words = |sentence: &'_ str| -> Vec<String> {
        let words: Vec<String> = sentence.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            return vec![String::new()];
        }
        words
    };
    let sentences = |text: &str| -> Vec<Vec<String>> {
        let parts = text.split('.').filter(|part| !part.is_empty());
        parts.map(words).collect()
    };
    set_rouge_l(&sentences(prediction), &sentences(reference))
}

/// [`rouge_l`] with characters for words, sentences ending at either full stop.
pub(super) fn rouge_l_chars(prediction: &str, reference: &str) -> f64 {
    let sentences = |text: &str| -> Vec<Vec<String>> {
        text.split(['.', '。'])
            .map(|part| {
                let characters = part.chars().filter(|c| !c.is_whitespace());
                characters.map(String::from).collect::<Vec<_>>()
            })
            .filter(|characters| !characters.is_empty())
            .collect()
    };
    set_rouge_l(&sentences(prediction), &sentences(reference))
}

fn set_rouge_l(prediction: &[Vec<String>], reference: &[Vec<String>]) -> f64 {
    let (prediction, reference) = (bounded(prediction), bounded(reference));
    let mut hits: HashSet<&str> = HashSet::new();
    for of_reference in &reference {
        for of_prediction in &prediction {
            let at = lcs::positions(of_reference, of_prediction, Tie::Candidate);
            hits.extend(at.iter().map(|&i| of_reference[i].as_str()));
        }
    }
    let different = |sentences: &[Vec<String>]| {
        let words: HashSet<&String> = sentences.iter().flatten().collect();
        words.len()
    };
    let (predicted, expected) = (different(&prediction), different(&reference));
    if predicted == 0 || expected == 0 {
        return 0.0;
    }
    let precision = hits.len() as f64 / predicted as f64;
    let recall = hits.len() as f64 / expected as f64;
    // The package's guard against a division by zero; it shows in the eighth digit.
    2.0 * precision * recall / (precision + recall + 1e-8)
}

/// Package `rouge-score`, `rouge1` without stemmer.
pub(super) fn rouge_1(prediction: &str, reference: &str) -> f64 {
    bag_f1(&ascii_words(prediction), &ascii_words(reference))
}

/// Package `rouge-score`, `rougeLsum` without stemmer: for each sentence of the reference the
/// union of its longest common subsequences with every sentence of the prediction, each word
/// counted at most as often as either side has it.
pub(super) fn rouge_lsum(prediction: &str, reference: &str) -> f64 {
    let sentences =
        |text: &str| -> Vec<Vec<String>> { text.split('\n').map(ascii_words).collect() };
    let prediction = bounded(&sentences(prediction));
    let reference = bounded(&sentences(reference));
    let mut left_of_prediction = counts(&prediction);
    let mut left_of_reference = counts(&reference);
    let mut hits = 0;
    for of_reference in &reference {
        let mut union = vec![false; of_reference.len()];
        for of_prediction in &prediction {
            for at in lcs::positions(of_reference, of_prediction, Tie::Reference) {
                union[at] = true;
            }
        }
        for (word, _) in of_reference.iter().zip(union).filter(|(_, taken)| *taken) {
            let p = left_of_prediction.get_mut(word.as_str());
            let r = left_of_reference.get_mut(word.as_str());
            if let (Some(p @ 1..), Some(r @ 1..)) = (p, r) {
                *p -= 1;
                *r -= 1;
                hits += 1;
            }
        }
    }
    let total = |sentences: &[Vec<String>]| sentences.iter().map(Vec::len).sum();
    harmonic(hits, total(&prediction), total(&reference))
}

fn counts(sentences: &[Vec<String>]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for word in sentences.iter().flatten() {
        *counts.entry(word.as_str()).or_default() += 1;
    }
    counts
}

fn ascii_words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first [`TOKENS_MAX`] words. The products of sentence lengths add up to the product of the
/// totals, so this bounds the work of all pairs together.
fn bounded(sentences: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut left = TOKENS_MAX;
    let mut kept = Vec::new();
    for sentence in sentences {
        if left == 0 {
            break;
        }
        let sentence = &sentence[..sentence.len().min(left)];
        left -= sentence.len();
        kept.push(sentence.to_vec());
    }
    kept
}
