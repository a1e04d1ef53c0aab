//! Arguments of `lava eval`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_lab::question::{Suite, Task, Text};

use crate::options::{Rows, Weights};

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
    /// Entries per layer and KV head, the window included, on average.
    #[arg(long, value_delimiter = ',', default_value = "128")]
    pub(crate) budgets: Vec<usize>,
    /// Text files, or folders of .txt files: what lm predicts and needles hide in.
    #[arg(long, value_delimiter = ',')]
    pub(crate) texts: Vec<PathBuf>,
    /// LongBench or InfiniteBench files; the name before .jsonl tells which set it is.
    #[arg(long, value_delimiter = ',')]
    pub(crate) data: Vec<PathBuf>,
    /// Tokens of a prompt.
    #[arg(long, value_delimiter = ',', default_value = "2000")]
    pub(crate) lengths: Vec<usize>,
    /// Places of needles, in percent of the text.
    #[arg(long, value_delimiter = ',', default_value = "0,25,50,75,100")]
    pub(crate) depths: Vec<f64>,
    /// Questions of each task, length and depth; of lm for each text and length; of each data set.
    #[arg(long, default_value_t = 4)]
    pub(crate) samples: usize,
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
    /// Write the table as Markdown.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Write one Markdown table per task and measure, policies down and budgets across.
    #[arg(long)]
    pub(crate) tables: Option<PathBuf>,
    /// Policy that scores are compared with.
    #[arg(long, default_value = "full")]
    pub(crate) baseline: String,
    /// Commit of this build, for the report.
    #[arg(long, default_value = concat!("version ", env!("CARGO_PKG_VERSION")))]
    pub(crate) commit: String,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value_t = Rows::F16, conflicts_with = "addr")]
    pub(crate) row_dtype: Rows,
    /// How weights are held. f32 is faster for many variants and takes more memory.
    #[arg(long, value_enum, default_value_t = Weights::F32, conflicts_with = "addr")]
    pub(crate) weights: Weights,
}

impl Eval {
    /// What is asked, but for data sets.
    pub(crate) fn suite(&self) -> Result<Suite> {
        let mut tasks: Vec<Task> = Vec::new();
        for name in &self.tasks {
            for task in Task::named(name)? {
                if !tasks.contains(&task) {
                    tasks.push(task);
                }
            }
        }
        if tasks.is_empty() && self.data.is_empty() {
            bail!("nothing is asked: name a task (lm, needle, ...) or give --data");
        }
        if let Some(depth) = self.depths.iter().find(|d| !(0.0..=100.0).contains(*d)) {
            bail!("--depths has {depth}, expected percent from 0 to 100");
        }
        Ok(Suite {
            tasks,
            lengths: self.lengths.clone(),
            depths: self.depths.iter().map(|depth| depth / 100.0).collect(),
            samples: self.samples,
            // The first token of a continuation comes from the full prefill and is not marked.
            continuation: self.continuation as usize + 1,
            seed: self.seed,
        })
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
            for entry in entries {
                let file = entry?.path();
                if file.extension().is_some_and(|extension| extension == "txt") {
                    files.push(file);
                }
            }
        }
        files.sort();
        let text = |file: PathBuf| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let content = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read the text {}", file.display()))?;
            Ok(Text {
                name: name.into_owned(),
                content,
            })
        };
        files.into_iter().map(text).collect()
    }
}
