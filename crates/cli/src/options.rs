//! Command-line arguments.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lava::{Budget, Method};
use lava_engine::{LoadError, OnDevice, RowFormat, SamplingParams, WeightFormat};
use lava_worker::{ComputeName, DeviceName, ModelSection};

/// Arguments of `lava generate`.
#[derive(Args)]
pub(crate) struct Generate {
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model); with --addr
    /// the name that the coordinator lists, which may be left out if there is only one.
    #[arg(long, required_unless_present = "addr")]
    pub(crate) model: Option<String>,
    /// Ask the coordinator at host:port instead of running the model here. Of several, with commas between them, the next one
    /// is asked if one cannot be reached or is lost before anything was shown; with --json nothing is before the end.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["device", "compute", "graphs"])]
    pub(crate) addr: Vec<String>,
    /// File with the prompt.
    #[arg(long, conflicts_with = "prompt", required_unless_present = "prompt")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// The prompt itself.
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// System message of the chat template.
    #[arg(long, conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Feed the prompt as it is, without the model's chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Which rows are kept: a policy, with settings behind it if wanted, as in lava+sinks=4. README.md lists both.
    #[arg(long, default_value = "lava-peaks")]
    pub(crate) policy: Method,
    /// What the cache is cut to: entries kept per layer and KV head, the window included, on average; or a share of
    /// the prompt, as in 10%; or bytes of the whole cache, as in 3MB.
    #[arg(long, default_value_t = Budget::Entries(1024))]
    pub(crate) budget: Budget,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// End the answer where this text would appear; may be repeated.
    #[arg(long)]
    pub(crate) stop: Vec<String>,
    /// How cache rows that compete for the budget are stored: f32, f16, bf16, int8, fp8 or int4.
    #[arg(long, default_value_t = RowFormat::Int4)]
    pub(crate) row_format: RowFormat,
    /// How weights are held.
    #[arg(long, value_enum, default_value_t = Weights::Stored, conflicts_with = "addr")]
    pub(crate) weights: Weights,
    #[command(flatten)]
    pub(crate) place: Place,
    /// How urgent the request is where others wait for room too.
    #[arg(long, value_enum, default_value_t = Priority::Normal, requires = "addr")]
    pub(crate) priority: Priority,
    /// On whose behalf the coordinator is asked; without it, that of the tenant default.
    #[arg(long, requires = "addr")]
    pub(crate) tenant: Option<String>,
    /// Print one JSON object instead of text and table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Priority {
    /// After the others.
    Low,
    /// Neither.
    Normal,
    /// Before the others.
    High,
}

impl From<Priority> for lava_proto::v1::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

/// Where a model runs.
#[derive(Args)]
pub(crate) struct Place {
    /// Where the model runs: cpu, or cuda:0 and so on for a GPU of NVIDIA's.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// What it computes in on a GPU, where weights are held so too: bf16, or f16 (finer, with less range).
    #[arg(long, default_value = "bf16")]
    compute: ComputeName,
    /// Record decode steps on a GPU as CUDA graphs.
    #[arg(long)]
    graphs: bool,
}

impl Place {
    /// Whether it computes in half precision on a GPU.
    pub(crate) fn is_half(&self) -> bool {
        self.compute == ComputeName::F16
    }

    /// The GPU, if it is one.
    pub(crate) fn on_device(&self) -> Result<Option<OnDevice>, LoadError> {
        let section = ModelSection {
            device: self.device,
            compute: self.compute,
            graphs: self.graphs,
            ..ModelSection::default()
        };
        section.on_device()
    }
}

/// How tokens are chosen.
#[derive(Args)]
pub(crate) struct Sampling {
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Choose among the k likeliest tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Choose among the likeliest tokens with this probability together.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens with at least this share of the likeliest one's probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens of prompt and answer less likely (above 1).
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Taken off a token's logit per occurrence in the answer.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Taken off the logit of tokens that are in the answer.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Key of the random generator.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Report this many of the likeliest tokens at each step (with --json).
    #[arg(long, default_value_t = 0)]
    logprobs: usize,
}

impl Sampling {
    pub(crate) fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed,
            top_logprobs: self.logprobs,
        }
    }
}

/// Arguments of `lava golden`.
#[derive(Args)]
pub(crate) struct Golden {
    /// The golden file (JSON).
    pub(crate) file: PathBuf,
    /// The model it was made with.
    #[arg(long)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Weights {
    /// As in the file: quantised weights stay quantised.
    Stored,
    /// Everything as f32.
    F32,
    /// Everything in 8 bits, a quarter of f32.
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
}

impl From<Weights> for WeightFormat {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Stored => Self::Stored,
            Weights::F32 => Self::F32,
            Weights::Q8_0 => Self::Q8_0,
        }
    }
}
