//! RULER's aggregation tasks: the words that occur most often.

use std::collections::HashSet;

use super::RULER_MAX_TOKENS;
use super::ask::{Ask, Draft, Error, listed};
use super::filler::Filler;
use crate::{Metric, Prompt, Sample};

/// A numbered list in which ten words occur more often than all others: 30 times against 3, or,
/// below 4096 tokens, 6 times against once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonWords;

const COMMON: usize = 10;
const LONG_TOKENS: usize = 4096;
/// Different words of a list, so that there are always enough to coin (343,000). It caps prompts
/// at about a million tokens.
const WORDS_MAX: usize = 100_000;

impl CommonWords {
    /// Words come from the filler's vocabulary; when that is spent, they are coined.
    ///
    /// # Errors
    /// A length that the ten words exceed.
    pub fn sample(&self, filler: &Filler, ask: &Ask<'_>) -> Result<Sample, Error> {
        let id = format!("common_words-{}-{}", ask.length, ask.index);
        let (common_times, other_times) = if ask.length < LONG_TOKENS {
            (6, 1)
        } else {
            (30, 3)
        };
        let mut vocabulary = filler.vocabulary();
        let mut dice = ask.dice(&id, "vocabulary");
        dice.shuffle(&mut vocabulary);
        let mut seen: HashSet<String> = vocabulary.iter().cloned().collect();
        // A number, a dot and a word are three tokens at least.
        let needed = COMMON + (ask.length / 3 / other_times).min(WORDS_MAX);
        while vocabulary.len() < needed {
            let word = coined(&mut dice);
            if seen.insert(word.clone()) {
                vocabulary.push(word);
            }
        }
        // No answer may be part of another word, where it would be found by accident.
        let answers = standalone(&vocabulary, COMMON);
        let others: Vec<String> = vocabulary
            .into_iter()
            .filter(|word| !answers.iter().any(|answer| word.contains(answer.as_str())))
            .collect();
        let build = |count: usize| {
            let common = answers
                .iter()
                .flat_map(|w| std::iter::repeat_n(w, common_times));
            let others = others
                .iter()
                .take(count)
                .flat_map(|w| std::iter::repeat_n(w, other_times));
            let mut list: Vec<&String> = common.chain(others).collect();
            ask.dice(&id, "order").shuffle(&mut list);
            let lines = list
                .iter()
                .enumerate()
                .map(|(i, word)| format!("{}. {word}", i + 1));
            Draft {
                prompt: Prompt {
                    context: lines.collect::<Vec<_>>().join(" "),
                    question: format!(
                        "Which {COMMON} words occur most often in the list? Name them."
                    ),
                    lead: "The words are".to_owned(),
                },
                answers: answers.clone(),
                truth: listed(&answers),
                depth: None,
            }
        };
        let most = others.len();
        ask.fit(
            "common_words",
            id.clone(),
            Metric::AllOf,
            RULER_MAX_TOKENS,
            (1.min(most), most),
            build,
        )
    }
}

/// Coined words whose counts fall with the square of their rank. The first rank is noise, a dot
/// sequence; the next three are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrequentWords;

/// The sum of `1/k²` over all `k`: counts of rank `k` are `words / k² / ZETA_2`, rounded down.
const ZETA_2: f64 = 1.644_934_066_848_226_4;
const ASKED: usize = 3;
/// The fewest words at which rank 5 is rarer than rank 4: counts 4 and 2.
const WORDS_LEAST: usize = 107;

impl FrequentWords {
    /// # Errors
    /// A length that the smallest text with a clear answer exceeds.
    pub fn sample(&self, ask: &Ask<'_>) -> Result<Sample, Error> {
        let id = format!("frequent_words-{}-{}", ask.length, ask.index);
        let mut dice = ask.dice(&id, "vocabulary");
        // RULER: one word of vocabulary per 50 tokens. Ranks whose count is 0 do not appear.
        let size = (ask.length / 50).max(ASKED + 2);
        let mut vocabulary = vec!["...".to_owned()];
        let mut seen = HashSet::new();
        while vocabulary.len() < size {
            let word = dice.letters(b"abcdefghijklmnopqrstuvwxyz", 6);
            if seen.insert(word.clone()) {
                vocabulary.push(word);
            }
        }
        let answers = vocabulary[1..=ASKED].to_vec();
        let build = |words: usize| {
            let mut text: Vec<&str> = Vec::new();
            for (rank, word) in vocabulary.iter().enumerate() {
                let share = 1.0 / ((rank + 1) as f64).powi(2) / ZETA_2;
                let times = (words as f64 * share) as usize;
                text.extend(std::iter::repeat_n(word.as_str(), times));
            }
            ask.dice(&id, "order").shuffle(&mut text);
            Draft {
                prompt: Prompt {
                    context: text.join(" "),
                    question: format!(
                        "Which {ASKED} words occur most often in the text? Do not count the dots. Name the words only."
                    ),
                    lead: "The words are".to_owned(),
                },
                answers: answers.clone(),
                truth: listed(&answers),
                depth: None,
            }
        };
        let most = ask.units_max().max(WORDS_LEAST);
        ask.fit(
            "frequent_words",
            id.clone(),
            Metric::AllOf,
            RULER_MAX_TOKENS,
            (WORDS_LEAST, most),
            build,
        )
    }
}

/// Three syllables.
fn coined(dice: &mut crate::dice::Dice) -> String {
    (0..3)
        .map(|_| {
            format!(
                "{}{}",
                dice.letters(b"bdfgklmnprstvz", 1),
                dice.letters(b"aeiou", 1)
            )
        })
        .collect()
}

/// The first `count` words that are no part of each other.
fn standalone(words: &[String], count: usize) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for word in words {
        let apart =
            |other: &String| !other.contains(word.as_str()) && !word.contains(other.as_str());
        if chosen.len() < count && chosen.iter().all(apart) {
            chosen.push(word.clone());
        }
    }
    chosen
}
