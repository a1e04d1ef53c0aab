//! Reads LongBench (arXiv 2308.14508): one `.jsonl` file per data set, with the fields `input`,
//! `context`, `answers`, `length`, `dataset`, `language`, `all_classes` and `_id`.
//!
//! The prompts are ours and short. They differ from the published ones, so scores compare
//! policies with each other and are near published tables at best. Metrics and cuts of answers
//! are those of the benchmark; the Chinese ones count characters where it segments words.

use std::path::Path;

use serde::Deserialize;

use crate::jsonl::{self, LineError, Lines, short};
use crate::{Metric, Prompt, Sample};

/// One of the 21 data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dataset {
    /// As published, also the file's name before `.jsonl`.
    pub name: &'static str,
    /// Tokens of an answer, as in the LAVa paper's runs. The benchmark's own bounds differ in
    /// places.
    pub max_tokens: usize,
    /// Whether a chat template belongs around the prompt: not for the few-shot and code sets.
    pub chat: bool,
    kind: Kind,
    language: Language,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Summary,
    Meeting,
    Class,
    Trivia,
    Dialogue,
    Count,
    Retrieval,
    Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    English,
    Chinese,
}

const fn set(name: &'static str, max_tokens: usize, kind: Kind, language: Language) -> Dataset {
    let chat = !matches!(
        kind,
        Kind::Class | Kind::Trivia | Kind::Dialogue | Kind::Code
    );
    Dataset {
        name,
        max_tokens,
        chat,
        kind,
        language,
    }
}

/// All data sets. `multi_news` and `vcsum` summarise without a question.
pub const DATASETS: [Dataset; 21] = {
    use Kind::*;
    use Language::{Chinese, English};
    [
        set("narrativeqa", 128, Answer, English),
        set("qasper", 128, Answer, English),
        set("multifieldqa_en", 64, Answer, English),
        set("multifieldqa_zh", 64, Answer, Chinese),
        set("hotpotqa", 32, Answer, English),
        set("2wikimqa", 32, Answer, English),
        set("musique", 32, Answer, English),
        set("dureader", 128, Answer, Chinese),
        set("gov_report", 512, Summary, English),
        set("qmsum", 512, Meeting, English),
        set("multi_news", 512, Summary, English),
        set("vcsum", 512, Summary, Chinese),
        set("trec", 64, Class, English),
        set("triviaqa", 32, Trivia, English),
        set("samsum", 128, Dialogue, English),
        set("lsht", 64, Class, Chinese),
        set("passage_count", 32, Count, English),
        set("passage_retrieval_en", 32, Retrieval, English),
        set("passage_retrieval_zh", 32, Retrieval, Chinese),
        set("lcc", 64, Code, English),
        set("repobench-p", 64, Code, English),
    ]
};

impl Dataset {
    /// The data set of this name, also of its even-length variant (`hotpotqa_e`).
    pub fn named(name: &str) -> Option<&'static Dataset> {
        let plain = name.strip_suffix("_e").unwrap_or(name);
        DATASETS.iter().find(|dataset| dataset.name == plain)
    }

    /// `classes` are those of the sample; only classification needs them.
    pub fn metric(&self, classes: &[String]) -> Metric {
        let classification = || Metric::Classification {
            classes: classes.to_vec(),
        };
        match (self.kind, self.language) {
            // Long answers from several pages are marked like summaries.
            (Kind::Answer, _) if self.name == "dureader" => Metric::RougeLChars,
            (Kind::Answer, Language::Chinese) => Metric::CharF1,
            (Kind::Answer, Language::English) => Metric::TokenF1,
            (Kind::Summary | Kind::Meeting, Language::Chinese) => Metric::RougeLChars,
            (Kind::Summary | Kind::Meeting, Language::English) => Metric::RougeL,
            (Kind::Class, _) => Metric::FirstLine(Box::new(classification())),
            (Kind::Trivia, _) => Metric::FirstLine(Box::new(Metric::TokenF1)),
            (Kind::Dialogue, _) => Metric::FirstLine(Box::new(Metric::RougeL)),
            (Kind::Count, _) => Metric::Count,
            (Kind::Retrieval, _) => Metric::Retrieval,
            (Kind::Code, _) => Metric::CodeSimilarity,
        }
    }

    fn prompt(&self, context: String, input: &str) -> Prompt {
        let question = match (self.kind, self.language) {
            (Kind::Answer, Language::English) => {
                format!("Answer from the text above, in a few words.\nQuestion: {input}\nAnswer:")
            }
            (Kind::Answer, Language::Chinese) => format!("根据上文简短回答。\n问题：{input}\n回答："),
            (Kind::Summary, Language::English) => "Summarize the text above.\nSummary:".to_owned(),
            (Kind::Summary, Language::Chinese) => "总结上文。\n总结：".to_owned(),
            (Kind::Meeting, _) => {
                format!("Answer from the meeting above.\nQuestion: {input}\nAnswer:")
            }
            // Few-shot sets: the context holds examples in the form in which the input goes on.
            (Kind::Class | Kind::Trivia | Kind::Dialogue, _) => input.to_owned(),
            (Kind::Count, _) => {
                "How many different paragraphs are above? Some are repeated. Answer with the number only.\nNumber:".to_owned()
            }
            (Kind::Retrieval, Language::English) => {
                format!("Which paragraph above does this summary describe?\n{input}\nAnswer like \"Paragraph 1\".\nAnswer:")
            }
            (Kind::Retrieval, Language::Chinese) => {
                format!("下面的摘要出自上文哪一段？\n{input}\n请按“段落1”的格式回答。\n回答：")
            }
            (Kind::Code, _) => input.to_owned(),
        };
        Prompt {
            context,
            question,
            lead: String::new(),
        }
    }
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    id: Option<String>,
    context: String,
    #[serde(default)]
    input: String,
    answers: Vec<String>,
    all_classes: Option<Vec<String>>,
    dataset: String,
}

const EXPECTED: &str = "a LongBench sample: context, input, answers and dataset";
const NAMES: &str = "a data set of LongBench";

/// Reads at most `samples_max` samples from the beginning of a file.
///
/// # Errors
/// The file is missing, empty, damaged or of another format; the error names file and line.
pub fn read(file: &Path, samples_max: usize) -> Result<Vec<Sample>, LineError> {
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
        let Some(dataset) = Dataset::named(&row.dataset) else {
            return Err(wrong("dataset", short(&row.dataset), NAMES));
        };
        if row.answers.is_empty() {
            return Err(wrong("answers", "empty".to_owned(), "one answer at least"));
        }
        let classes = row.all_classes.unwrap_or_default();
        if dataset.kind == Kind::Class && classes.is_empty() {
            return Err(wrong(
                "all_classes",
                "empty".to_owned(),
                "the names of all classes",
            ));
        }
        samples.push(Sample {
            id: row
                .id
                .unwrap_or_else(|| format!("{}-{}", dataset.name, line.number)),
            length: row.context.split_whitespace().count(),
            metric: dataset.metric(&classes),
            prompt: dataset.prompt(row.context, &row.input),
            truth: format!(" {}", row.answers[0]),
            answers: row.answers,
            depth: None,
            max_tokens: dataset.max_tokens,
        });
    }
    if samples.is_empty() && samples_max > 0 {
        return Err(LineError::Empty {
            file: file.to_owned(),
        });
    }
    Ok(samples)
}
