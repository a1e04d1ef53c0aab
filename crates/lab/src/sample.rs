//! One question with its answers.

use serde::{Deserialize, Serialize};

use crate::Metric;

/// Plain text; the runner joins the parts, or puts them through a chat template. The question is
/// separate because a query-aware policy must see it in its window, and because a cut of a text
/// that is too long must not touch it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What to read.
    pub context: String,
    /// What to answer, with everything that comes after the context.
    pub question: String,
    /// How the answer begins; a small model that is left to itself begins with something else. Empty
    /// where nothing is given. A server that only takes messages is asked without it.
    pub lead: String,
}

impl Prompt {
    /// Context, an empty line, question; whichever is empty is left out. The lead is not in it.
    pub fn joined(&self) -> String {
        if self.context.is_empty() || self.question.is_empty() {
            return format!("{}{}", self.context, self.question);
        }
        format!("{}\n\n{}", self.context, self.question)
    }
}

/// One question with its answers and how to mark what a model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unique within its task and the same on every run.
    pub id: String,
    /// What the model reads.
    pub prompt: Prompt,
    /// References; what several of them mean is the metric's business.
    pub answers: Vec<String>,
    /// A right answer, as it goes on behind the lead: what a teacher makes the model read.
    pub truth: String,
    /// How to mark.
    pub metric: Metric,
    /// Of a generated task: the length that was asked for, in the unit of the caller's counter
    /// (tokens). Of a data set that was read: words of the context.
    pub length: usize,
    /// Where in the context the answer lies, 0 at its beginning and 1 at its end, if there is one
    /// such place.
    pub depth: Option<f64>,
    /// Tokens that the answer may take. They come on top of `length`.
    pub max_tokens: usize,
}

impl Sample {
    /// Between 0 and 1.
    pub fn score(&self, prediction: &str) -> f64 {
        self.metric.score(prediction, &self.answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_leaves_no_gap() {
        let joined = |context: &str, question: &str| {
            Prompt {
                context: context.to_owned(),
                question: question.to_owned(),
                lead: "l".to_owned(),
            }
            .joined()
        };
        assert_eq!(joined("c", "q"), "c\n\nq");
        assert_eq!(joined("", "q"), "q");
        assert_eq!(joined("c", ""), "c");
    }
}
