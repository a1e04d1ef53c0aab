//! Arguments of `lava eval`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use lava::{Budget, Method};
use lava_engine::RowFormat;
use lava_lab::question::{Question, Suite, Task, Text, read_data};

use crate::options::Weights;

/// Arguments of `lava eval`.
#[derive(Args)]
pub(crate) struct Eval {
    /// What to ask: lm, needle, needles, kv, RULER's tasks by name, ruler or all. Data sets are given
    /// with --data.
    pub(crate) tasks: Vec<String>,
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model); with --addr
    /// the name that the coordinator lists, which may be left out if there is only one.
    #[arg(long, required_unless_present = "addr")]
    pub(crate) model: Option<String>,
    /// Ask the coordinator at host:port instead of running the model here.
    #[arg(long)]
    pub(crate) addr: Option<String>,
    /// Requests to a coordinator at one time.
    #[arg(long, default_value_t = 4, requires = "addr", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
    /// Policies, with settings if wanted, as in lava+sinks=4; all are those with default settings.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "full,lava-peaks,lava,snapkv,streaming-llm"
    )]
    pub(crate) policies: Vec<String>,
    /// What caches are cut to: entries per layer and KV head, the window included, on average; or shares of
    /// the prompt, as in 10%; or bytes of the whole cache, as in 3MB.
    #[arg(long, value_delimiter = ',', default_value = "128")]
    pub(crate) budgets: Vec<Budget>,
    /// How cache rows that compete for the budget are stored: f32, f16, bf16, int8, fp8, int4.
    #[arg(long, value_delimiter = ',', default_value = "int4")]
    pub(crate) row_formats: Vec<RowFormat>,
    /// Text files, or folders of .txt files: what lm predicts and needles hide in.
    #[arg(long, value_delimiter = ',')]
    pub(crate) texts: Vec<PathBuf>,
    /// LongBench or InfiniteBench files; the name before .jsonl tells which set it is.
    #[arg(long, value_delimiter = ',')]
    pub(crate) data: Vec<PathBuf>,
    /// Tokens of a prompt.
    #[arg(long, value_delimiter = ',', default_value = "2000")]
    pub(crate) lengths: Vec<usize>,
    /// Places of needles, in whole percent of the text.
    #[arg(long, value_delimiter = ',', default_value = "0,25,50,75,100", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) depths: Vec<u8>,
    /// Questions of each task, length and depth; of lm for each text and length; of each data set.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: u32,
    /// Tokens that lm predicts after the first one.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) continuation: u32,
    /// The same seed asks the same questions.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// File of results (JSON lines). A run that was stopped goes on where it was.
    #[arg(long, default_value = "lava-eval.jsonl")]
    pub(crate) out: PathBuf,
    /// Write the summary as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Write Markdown tables, one per task and measure: policies down, budgets across.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Policy that scores are compared with; its rows are in the first of the formats.
    #[arg(long, default_value = "full")]
    pub(crate) baseline: Method,
    /// Commit of this build, for the report.
    #[arg(long, default_value = concat!("version ", env!("CARGO_PKG_VERSION")))]
    pub(crate) commit: String,
    /// How weights are held. f32 is faster for many variants and takes more memory.
    #[arg(long, value_enum, default_value_t = Weights::F32, conflicts_with = "addr")]
    pub(crate) weights: Weights,
}

impl Eval {
    /// What is asked, but for data sets.
    pub(crate) fn suite(&self) -> Result<Suite> {
        let mut tasks: Vec<Task> = Vec::new();
        for name in &self.tasks {
            tasks.extend(Task::named(name)?);
        }
        let tasks = once(tasks);
        if tasks.is_empty() && self.data.is_empty() {
            bail!("nothing is asked: name a task (lm, needle, ...) or give --data");
        }
        if self.addr.is_some() && tasks.contains(&Task::Lm) {
            bail!("lm compares likelihoods, which a server does not give: run it without --addr");
        }
        let depths = once(self.depths.clone()).into_iter();
        Ok(Suite {
            tasks,
            lengths: once(self.lengths.clone()),
            depths: depths.map(|depth| f64::from(depth) / 100.0).collect(),
            samples: self.samples as usize,
            // The first token of a continuation comes from the full prefill and is not marked.
            continuation: self.continuation as usize + 1,
            seed: self.seed,
        })
    }

    /// The questions of the data sets.
    pub(crate) fn read_data(&self) -> Result<Vec<Question>> {
        let mut names = BTreeSet::new();
        let mut questions = Vec::new();
        for file in &self.data {
            if !names.insert(file_name(file)) {
                let name = file_name(file);
                bail!("--data has two files called {name}: ask each in a run with its own --out");
            }
            questions.extend(read_data(file, self.samples as usize)?);
        }
        Ok(questions)
    }

    /// All texts, by name.
    pub(crate) fn read_texts(&self) -> Result<Vec<Text>> {
        let mut files = Vec::new();
        for path in &self.texts {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let entries = path
                .read_dir()
                .with_context(|| format!("cannot list {}", path.display()))?;
            let before = files.len();
            for entry in entries {
                let file = entry?.path();
                if file.extension().is_some_and(|extension| extension == "txt") {
                    files.push(file);
                }
            }
            if files.len() == before {
                bail!("the folder {} has no .txt files", path.display());
            }
        }
        files.sort();
        files.dedup();
        let text = |file: PathBuf| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let content = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read the text {}", file.display()))?;
            if content.trim().is_empty() {
                bail!("the text {} is empty", file.display());
            }
            Ok(Text {
                name: name.into_owned(),
                content,
            })
        };
        files.into_iter().map(text).collect()
    }
}

/// Each value once, in the order of its first time.
fn once<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
