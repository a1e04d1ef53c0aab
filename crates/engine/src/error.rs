//! What can go wrong while a model is loaded, and while it runs.

use std::path::PathBuf;

use lava_kernels::cuda::DeviceError;

/// A model that cannot be loaded. Each variant names the file and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The name is neither a path nor a repository name.
    #[error(
        "no model at {name:?}: expected a folder with config.json and safetensors, a .gguf file, or a Hub name such as owner/model"
    )]
    NoSuchModel {
        /// What was given.
        name: String,
    },
    /// The Hub could not give a file.
    #[error("cannot fetch {file} of {repository} from the Hub")]
    Hub {
        /// Repository name.
        repository: String,
        /// File inside it.
        file: String,
        /// The client's own error.
        source: Box<hf_hub::api::sync::ApiError>,
    },
    /// A file could not be read.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A JSON file is not what it should be.
    #[error("{} is not valid", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// The GGUF container is broken or lacks a key.
    #[error(transparent)]
    Gguf(Box<lava_gguf::GgufError>),
    /// The safetensors container is broken.
    #[error("{} is not a readable safetensors file", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// The reader's error.
        source: Box<candle_core::Error>,
    },
    /// The model is of a kind that this engine does not run.
    #[error("{}: architecture {found:?} is not supported; known: {known}", file.display())]
    UnknownArchitecture {
        /// The file that names it.
        file: PathBuf,
        /// Its name.
        found: String,
        /// The supported ones.
        known: &'static str,
    },
    /// A configuration value is out of range or contradicts another.
    #[error("{}: {key} is {found}, expected {expected}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// Name of the value.
        key: &'static str,
        /// What it holds.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor of the model is not in its files.
    #[error("{}: tensor {tensor} is missing", file.display())]
    MissingTensor {
        /// The file (or the index of a sharded model).
        file: PathBuf,
        /// Name as the file would spell it.
        tensor: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{}: tensor {tensor} has shape {found:?}, the configuration asks for {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Name as the file spells it.
        tensor: String,
        /// Shape in the file, outermost first.
        found: Vec<usize>,
        /// Shape by the configuration, outermost first.
        expected: Vec<usize>,
    },
    /// A tensor has a type that is not read.
    #[error("{}: tensor {tensor} is stored as {found}, expected {expected}", file.display())]
    Dtype {
        /// The file.
        file: PathBuf,
        /// Name as the file spells it.
        tensor: String,
        /// Its type.
        found: String,
        /// The readable ones.
        expected: &'static str,
    },
    /// No kernel is made for the model's shape.
    #[error("no GPU kernel is made for a model whose {what} is {found}, expected {expected}")]
    NotOnDevice {
        /// Name of the size.
        what: &'static str,
        /// The model's.
        found: usize,
        /// What would do.
        expected: &'static str,
    },
    /// This program knows no GPUs.
    #[error(
        "the GPU cuda:{number} was asked for, and this program is built without CUDA: build it with the feature `cuda`"
    )]
    WithoutCuda {
        /// Of the GPU.
        number: usize,
    },
    /// The GPU could not take it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The tensor library refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<lava_gguf::GgufError> for LoadError {
    fn from(error: lava_gguf::GgufError) -> Self {
        Self::Gguf(Box::new(error))
    }
}

/// A request that the engine refuses or could not finish.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is nothing to run.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens; the model's context is {context} and one must be left to generate"
    )]
    PromptTooLong {
        /// N.
        tokens: usize,
        /// Context length in tokens.
        context: usize,
    },
    /// Sliding-window layers are not evicted by LAVa; within the window they are ordinary layers.
    #[error(
        "the prompt has {tokens} tokens; this model attends over a sliding window of {window}, and longer prompts are not supported"
    )]
    SlidingWindow {
        /// N.
        tokens: usize,
        /// Window of the model in tokens.
        window: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {token} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocabulary: usize,
    },
    /// A sampling parameter is out of range.
    #[error("{name} is {found}, expected {expected}")]
    Sampling {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        found: String,
        /// The valid range.
        expected: &'static str,
    },
    /// The method refused: a budget not above the window, or scores that are not finite.
    #[error(transparent)]
    Method(#[from] lava::Error),
    /// The pool has no room for the request; it may succeed later.
    #[error("the cache pool has {free} of {total} pages free, the request needs {needed}")]
    PoolFull {
        /// Pages asked for.
        needed: usize,
        /// Pages not reserved.
        free: usize,
        /// Pages of the pool.
        total: usize,
    },
    /// The request needs more pages than the pool has; it will never fit.
    #[error("the request needs {needed} cache pages, the whole pool has {total}")]
    PoolTooSmall {
        /// Pages asked for.
        needed: usize,
        /// Pages of the pool.
        total: usize,
    },
    /// The caller stopped the prefill.
    #[error("cancelled after layer {layer}")]
    Cancelled {
        /// Index of the last finished layer.
        layer: usize,
    },
    /// The model produced a value that is not a number: broken weights.
    #[error("the model's logits hold no finite value; its weights are broken")]
    NoFiniteLogit,
    /// GPUs hold rows of 16 bits and less.
    #[error("rows of f32 are for CPUs; this model runs on a GPU")]
    WideRowsOnDevice,
    /// A GPU has no room for the pages of its caches.
    #[error(
        "no room for {pages} cache pages of {page_bytes} bytes on the GPU beside the model's weights"
    )]
    NoDevicePages {
        /// How many.
        pages: usize,
        /// Of one.
        page_bytes: usize,
    },
    /// A GPU has too little memory for what is computed, beside weights and caches.
    #[error(
        "the GPU has no {bytes} bytes left for activations; fewer cache pages, or smaller blocks of tokens, leave more"
    )]
    NoDeviceMemory {
        /// That were asked for.
        bytes: usize,
    },
    /// The GPU failed; it is of no more use.
    #[error("the GPU failed: {0}")]
    Device(DeviceError),
    /// The tensor library refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<DeviceError> for EngineError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NoMemory { bytes } => Self::NoDeviceMemory { bytes },
            error => Self::Device(error),
        }
    }
}
