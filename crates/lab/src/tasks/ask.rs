//! What every task is asked with, and how it meets a length.

use thiserror::Error;

use crate::dice::Dice;
use crate::{Metric, Prompt, Sample};

/// One sample is wanted.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The prompt has at most this many tokens, as `count_tokens` counts them; answers come on
    /// top.
    pub length: usize,
    /// Of the whole run.
    pub seed: u64,
    /// Which of the samples of this task, length and depth.
    pub index: usize,
    /// Counts the tokens of a text. It is called about `2·log2(length)` times with texts of up to
    /// twice the length. A count that shrinks when a text grows makes prompts shorter than they
    /// could be, never longer than asked.
    pub count_tokens: &'a dyn Fn(&str) -> usize,
}

/// Why a sample cannot be made. Every variant is a wrong setting of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The question alone does not fit.
    #[error("{task} needs {needed} tokens at least, and {asked} were asked for")]
    TooShort {
        /// The task's name.
        task: &'static str,
        /// The length of the ask.
        asked: usize,
        /// Tokens of the smallest prompt.
        needed: usize,
    },
    /// A setting is outside its range.
    #[error("{setting} of {task} is {found}, expected {expected}")]
    Setting {
        /// The task's name.
        task: &'static str,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A filler text has no words.
    #[error("the filler text has no words")]
    EmptyFiller,
}

/// What a task makes of an amount of filler.
pub(super) struct Draft {
    pub(super) prompt: Prompt,
    pub(super) answers: Vec<String>,
    pub(super) truth: String,
    pub(super) depth: Option<f64>,
}

impl Ask<'_> {
    /// Chance for one draw of this ask. The same label gives the same draws, whatever the length
    /// of the filler that is being tried.
    pub(super) fn dice(&self, id: &str, what: &str) -> Dice {
        Dice::new(self.seed, &format!("{id}/{what}"))
    }

    /// The sample with the most units of filler that fits, between `least` and `most`.
    pub(super) fn fit(
        &self,
        task: &'static str,
        id: String,
        metric: Metric,
        max_tokens: usize,
        (least, most): (usize, usize),
        build: impl Fn(usize) -> Draft,
    ) -> Result<Sample, Error> {
        let tokens = |draft: &Draft| (self.count_tokens)(&draft.prompt.joined());
        let mut best = build(least);
        let needed = tokens(&best);
        if needed > self.length {
            return Err(Error::TooShort {
                task,
                asked: self.length,
                needed,
            });
        }
        // Doubling first, so that no text is built that is much longer than asked.
        let (mut fits, mut step) = (least, 1);
        let mut too_long = most.saturating_add(1);
        while fits < most {
            let tried = fits.saturating_add(step).min(most);
            let draft = build(tried);
            if tokens(&draft) > self.length {
                too_long = tried;
                break;
            }
            (fits, best, step) = (tried, draft, step * 2);
        }
        while fits + 1 < too_long && fits < most {
            let tried = fits + (too_long - fits) / 2;
            let draft = build(tried);
            if tokens(&draft) > self.length {
                too_long = tried;
            } else {
                (fits, best) = (tried, draft);
            }
        }
        Ok(Sample {
            id,
            prompt: best.prompt,
            answers: best.answers,
            truth: best.truth,
            metric,
            length: self.length,
            depth: best.depth,
            max_tokens,
        })
    }

    /// Units of filler that are certainly too many: a unit has a token at least with any
    /// tokenizer, and a counter that gives less is cut off here.
    pub(super) fn units_max(&self) -> usize {
        self.length.saturating_mul(2).saturating_add(16)
    }
}

/// Answers one after another, as they go on behind a lead.
pub(super) fn listed(answers: &[String]) -> String {
    format!(" {}.", answers.join(", "))
}

pub(super) fn depth_in_range(task: &'static str, depth: f64) -> Result<f64, Error> {
    if (0.0..=1.0).contains(&depth) {
        return Ok(depth);
    }
    Err(Error::Setting {
        task,
        setting: "depth",
        found: depth.to_string(),
        expected: "0 to 1",
    })
}

pub(super) fn count_in_range(
    task: &'static str,
    setting: &'static str,
    found: usize,
    most: usize,
    expected: &'static str,
) -> Result<(), Error> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    Err(Error::Setting {
        task,
        setting,
        found: found.to_string(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn fit(length: usize, least: usize, most: usize) -> Result<usize, Error> {
        let ask = Ask {
            length,
            seed: 1,
            index: 0,
            count_tokens: &words,
        };
        let build = |units: usize| Draft {
            prompt: Prompt {
                context: "x ".repeat(units),
                question: "q".to_owned(),
                lead: String::new(),
            },
            answers: Vec::new(),
            truth: String::new(),
            depth: None,
        };
        let sample = ask.fit("t", String::new(), Metric::AllOf, 1, (least, most), build)?;
        Ok(words(&sample.prompt.context))
    }

    #[test]
    fn the_most_that_fits_is_taken() {
        for length in 2..70 {
            assert_eq!(fit(length, 1, 1000), Ok(length - 1));
            assert_eq!(fit(length, 1, 5), Ok((length - 1).min(5)));
        }
        assert_eq!(fit(9, 3, 3), Ok(3));
        assert_eq!(
            fit(3, 5, 9),
            Err(Error::TooShort {
                task: "t",
                asked: 3,
                needed: 6
            })
        );
    }

    #[test]
    fn a_counter_that_counts_nothing_comes_to_an_end() {
        let ask = Ask {
            length: 10,
            seed: 1,
            index: 0,
            count_tokens: &|_| 0,
        };
        assert_eq!(ask.units_max(), 36);
    }
}
