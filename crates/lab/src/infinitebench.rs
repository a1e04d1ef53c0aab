//! Reads InfiniteBench (arXiv 2402.13718): one `.jsonl` file per task, with the fields `id`,
//! `context`, `input`, `answer` (text, number or a list of them) and `options`. The file's name
//! before `.jsonl` tells the task.
//!
//! The prompts are ours and short. They differ from the published ones, so scores compare
//! policies with each other and are near published tables at best. `code_debug` and `math_calc`
//! are missing: their marks depend on the published prompts.

use std::path::Path;

use serde::Deserialize;

use crate::jsonl::{self, LineError, Lines, short};
use crate::{Metric, Prompt, Sample};

/// One of the tasks that we can mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// As published, also the file's name before `.jsonl`.
    pub name: &'static str,
    /// How to mark.
    pub metric: Metric,
    /// Tokens of an answer, as in the benchmark and, for the three tasks that it has, the LAVa
    /// paper.
    pub max_tokens: usize,
    question: &'static str,
}

const fn task(
    name: &'static str,
    metric: Metric,
    max_tokens: usize,
    question: &'static str,
) -> Task {
    Task {
        name,
        metric,
        max_tokens,
        question,
    }
}

/// All tasks that we can mark. `{}` in a question is the sample's `input`.
pub const TASKS: [Task; 10] = [
    task(
        "passkey",
        Metric::FirstNumber,
        6,
        "{}\nAnswer with the number only:",
    ),
    task(
        "number_string",
        Metric::FirstNumber,
        12,
        "{}\nAnswer with the number only:",
    ),
    task(
        "kv_retrieval",
        Metric::Word,
        50,
        "{}\nAnswer with the value only:",
    ),
    task(
        "longbook_sum_eng",
        Metric::RougeLsum,
        1200,
        "Summarize the book above.\nSummary:",
    ),
    task(
        "longbook_choice_eng",
        Metric::Choice,
        40,
        "Answer from the book above, with one letter.\nQuestion: {}",
    ),
    task(
        "longbook_qa_eng",
        Metric::TokenF1,
        40,
        "Answer from the book above, in a few words.\nQuestion: {}\nAnswer:",
    ),
    task(
        "longbook_qa_chn",
        Metric::CharF1,
        40,
        "根据上面的书简短回答。\n问题：{}\n回答：",
    ),
    task(
        "longdialogue_qa_eng",
        Metric::UpperWord,
        40,
        "In the script above, one name is replaced by \"$$MASK$$\". Whose name is it?\nName:",
    ),
    task(
        "math_find",
        Metric::MathFind,
        3,
        "{}\nAnswer with the number only:",
    ),
    task(
        "code_run",
        Metric::LastNumber,
        5,
        "{}\nAnswer with the result only:",
    ),
];

impl Task {
    /// The task of this name.
    pub fn named(name: &str) -> Option<&'static Task> {
        static ALL: [Task; 10] = TASKS;
        ALL.iter().find(|task| task.name == name)
    }
}

#[derive(Deserialize)]
struct Row {
    id: Id,
    context: String,
    #[serde(default)]
    input: String,
    answer: OneOrMany,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Scalar>),
    One(Scalar),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
}

type Id = Scalar;

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
        }
    }
}

const EXPECTED: &str = "an InfiniteBench sample: id, context, input, answer and options";
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Reads at most `samples_max` samples from the beginning of a task's file.
///
/// # Errors
/// The file is missing, empty, damaged or of another format; the error names file and line.
pub fn read(task: &Task, file: &Path, samples_max: usize) -> Result<Vec<Sample>, LineError> {
    let mut lines = Lines::new(file, jsonl::open(file)?, EXPECTED);
    let mut samples = Vec::new();
    while samples.len() < samples_max
        && let Some(line) = lines.next::<Row>()?
    {
        let row = line.value;
        let wrong = |field, found, expected| LineError::Field {
            file: file.to_owned(),
            line: line.number,
            field,
            found,
            expected,
        };
        let answers: Vec<String> = match row.answer {
            OneOrMany::One(answer) => vec![answer.into_text()],
            OneOrMany::Many(answers) => answers.into_iter().map(Scalar::into_text).collect(),
        };
        let Some(first) = answers.first() else {
            return Err(wrong("answer", "empty".to_owned(), "one answer at least"));
        };
        let mut question = task.question.replace("{}", &row.input);
        let answers = match task.metric {
            Metric::Choice => {
                if row.options.len() != LETTERS.len() {
                    return Err(wrong(
                        "options",
                        row.options.len().to_string(),
                        "four options",
                    ));
                }
                let Some(index) = row.options.iter().position(|option| option == first) else {
                    return Err(wrong("answer", short(first), "one of the options"));
                };
                for (letter, option) in LETTERS.iter().zip(&row.options) {
                    question.push_str(&format!("\n{letter}. {option}"));
                }
                question.push_str("\nAnswer:");
                vec![first.clone(), LETTERS[index].to_owned()]
            }
            // Questions about a text may have several answers; elsewhere the script takes the first.
            Metric::TokenF1 | Metric::CharF1 | Metric::RougeLsum => answers,
            _ => vec![first.clone()],
        };
        samples.push(Sample {
            id: format!("{}-{}", task.name, row.id.into_text()),
            length: row.context.split_whitespace().count(),
            prompt: Prompt {
                context: row.context,
                question,
                lead: String::new(),
            },
            truth: answers
                .first()
                .map_or(String::new(), |first| format!(" {first}")),
            answers,
            metric: task.metric.clone(),
            depth: None,
            max_tokens: task.max_tokens,
        });
    }
    if samples.is_empty() && samples_max > 0 {
        return Err(LineError::Empty {
            file: file.to_owned(),
        });
    }
    Ok(samples)
}
