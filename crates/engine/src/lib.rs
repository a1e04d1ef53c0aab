//! The model on candle: it loads weights, runs prompts with LAVa's scores, holds the compact caches in
//! pages, decodes batches of them and samples. It owns tensors and pages and refuses to know text,
//! requests, clocks beyond its own timings, and the network. The workers and the command line call it.
//!
//! A request goes through [`Model::prefill`], which leaves a [`RaggedCache`], and then through
//! [`Model::step`] once per token.

#![deny(unsafe_code)]

mod cache;
mod config;
mod decode;
mod device;
mod error;
mod fingerprint;
mod full_kv;
mod gpus;
mod host;
mod keeping;
mod linear;
mod model;
mod observer;
mod ops;
mod pass;
mod pool;
mod prefill;
mod prefill_bytes;
mod prefix;
mod rope;
mod sampling;
mod source;
mod table;
mod weights;

pub use cache::{Mark, RaggedCache};
pub use config::{ARCHITECTURES, ModelConfig, RopeScaling};
pub use decode::Turn;
pub use device::RowReader;
pub use error::{EngineError, LoadError};
pub use gpus::Gpus;
pub use lava_kernels::cuda::Compute;
pub use lava_kv::RowFormat;
pub use model::{Model, OnDevice};
pub use pool::{PagePool, Reservation};
pub use prefill::{AfterLayer, LayerDone, PrefillJob, PrefillRequest, PrefillStats, Prefilled};
pub use prefill_bytes::PrefillBytes;
pub use prefix::{ExpectedBlocks, PrefixCache};
pub use sampling::{Sampled, Sampler, SamplingParams};
pub use source::ModelFiles;
pub use table::PageTable;
pub use weights::WeightFormat;
