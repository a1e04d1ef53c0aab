//! How to mark what a model said: the metrics of LongBench (arXiv 2308.14508), InfiniteBench
//! (arXiv 2402.13718) and RULER (arXiv 2404.06654), after the definitions that their evaluation
//! scripts carry out. Where we differ on purpose, the variant says so.
//!
//! | here | there |
//! |---|---|
//! | `TokenF1` | LongBench and InfiniteBench `qa_f1_score` |
//! | `CharF1` | InfiniteBench `qa_f1_score_zh` |
//! | `RougeL` | LongBench `rouge_score`: package `rouge` 1.0.1, `rouge-l` `f` |
//! | `Rouge1`, `RougeLsum` | package `rouge-score` 0.1.2 without stemmer (needle test; InfiniteBench summaries) |
//! | `Classification`, `Retrieval`, `Count`, `CodeSimilarity` | LongBench's functions of the same names |
//! | `AllOf`, `AnyOf` | RULER `string_match_all`, `string_match_part` |
//! | `FirstNumber`, `Word`, `UpperWord`, `Choice`, `MathFind`, `LastNumber` | InfiniteBench, one function per task |

mod choice;
mod classes;
mod code;
mod f1;
mod lcs;
mod matching;
mod normal;
mod numbers;
mod rouge;

use serde::{Deserialize, Serialize};

/// How to mark an answer. A score lies between 0 and 1, also for odd input; none for empty
/// references is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// F1 over words after lower case and without ASCII punctuation, articles and extra space.
    TokenF1,
    /// F1 over characters after lower case and without punctuation and space. LongBench's
    /// Chinese metric takes the words of a segmenter instead, so scores are not comparable there.
    CharF1,
    /// Summary-level ROUGE-L (F) over *sets* of words, sentences ending at full stops.
    RougeL,
    /// `RougeL` over characters, for Chinese. LongBench takes the words of a segmenter, so scores
    /// are not comparable.
    RougeLChars,
    /// ROUGE-1 (F) over lower-case ASCII words.
    Rouge1,
    /// Summary-level ROUGE-L (F) over lower-case ASCII words, sentences ending at line ends.
    RougeLsum,
    /// The share of the true class among the classes that the answer names.
    Classification {
        /// Every class of the data set.
        classes: Vec<String>,
    },
    /// The share of the true paragraph's number among all numbers in the answer.
    Retrieval,
    /// The share of the true number among all numbers in the answer.
    Count,
    /// Similarity of the first line that is no comment, by edit distance without substitutions,
    /// in hundredths.
    CodeSimilarity,
    /// Equal after the normalisation of `TokenF1`.
    ExactMatch,
    /// The share of references that the answer contains, in any case of letters.
    AllOf,
    /// 1 if the answer contains one of the references, in any case of letters.
    AnyOf,
    /// The first whole number is the reference.
    FirstNumber,
    /// One word of the answer is the reference.
    Word,
    /// One word of the answer in capitals is the reference.
    UpperWord,
    /// Multiple choice; the references are the option's text and its letter.
    Choice,
    /// The first number, whole or with a fraction, equals the reference.
    MathFind,
    /// The last word is a whole number and equals the reference.
    LastNumber,
    /// Only the first line of the answer counts, after leading line ends.
    FirstLine(Box<Metric>),
}

impl Metric {
    /// Marks one answer. With several references the best one counts, except for `AllOf` (their
    /// share) and `Choice` (all are names of one option).
    pub fn score(&self, prediction: &str, references: &[String]) -> f64 {
        match self {
            Metric::FirstLine(inner) => inner.score(first_line(prediction), references),
            Metric::AllOf => matching::all_of(prediction, references),
            Metric::Choice => choice::choice(prediction, references),
            _ => references
                .iter()
                .map(|reference| self.score_one(prediction, reference))
                .fold(0.0, f64::max),
        }
    }

    fn score_one(&self, prediction: &str, reference: &str) -> f64 {
        match self {
            Metric::TokenF1 => f1::token_f1(prediction, reference),
            Metric::CharF1 => f1::char_f1(prediction, reference),
            Metric::RougeL => rouge::rouge_l(prediction, reference),
            Metric::RougeLChars => rouge::rouge_l_chars(prediction, reference),
            Metric::Rouge1 => rouge::rouge_1(prediction, reference),
            Metric::RougeLsum => rouge::rouge_lsum(prediction, reference),
            Metric::Classification { classes } => {
                classes::classification(prediction, reference, classes)
            }
            Metric::Retrieval => numbers::retrieval(prediction, reference),
            Metric::Count => numbers::count(prediction, reference),
            Metric::CodeSimilarity => code::code_similarity(prediction, reference),
            Metric::ExactMatch => matching::exact(prediction, reference),
            Metric::AnyOf => matching::contains(prediction, reference),
            Metric::FirstNumber => numbers::first_number(prediction, reference),
            Metric::Word => matching::word(prediction, reference),
            Metric::UpperWord => matching::upper_word(prediction, reference),
            Metric::MathFind => numbers::math_find(prediction, reference),
            Metric::LastNumber => numbers::last_number(prediction, reference),
            Metric::AllOf | Metric::Choice | Metric::FirstLine(_) => {
                self.score(prediction, &[reference.to_owned()])
            }
        }
    }
}

fn first_line(text: &str) -> &str {
    let text = text.trim_start_matches('\n');
    text.split('\n').next().unwrap_or(text)
}

fn mark(right: bool) -> f64 {
    f64::from(u8::from(right))
}

#[cfg(test)]
mod tests;
