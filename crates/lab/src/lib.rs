//! What does a budget cost in quality? This crate owns the questions (tasks and readers of
//! published data sets), the marks (metrics), the arithmetic over them (intervals, paired
//! differences), who answers (a model in this process, or a server), the file of results, and the
//! report. Only `local` knows a model and only `served` and `load` a network; the rest is text and numbers.
//! `lava eval` calls it. What a load costs in time is asked here too: `bench` measures the engine alone,
//! `load` a server under requests that do not wait for each other.
//!
//! A *sample* is one question with its answers, a *record* what one policy with one budget made
//! of one sample. Scores lie between 0 and 1; a report multiplies by 100 where it says so.

#![forbid(unsafe_code)]

// In reading order.
mod sample;

pub mod metrics;

pub mod tasks;

mod jsonl;

pub mod longbench;

pub mod infinitebench;

pub mod results;

pub mod stats;

pub mod report;

pub mod progress;

mod dice;

mod variant;

mod cut;

pub mod question;

pub mod divergence;

pub mod bench;

pub mod local;

pub mod served;

pub mod run;

pub mod load;

/// What went wrong with whoever answers.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use cut::QuestionTooLong;
pub use jsonl::{LINE_BYTES_MAX, LineError};
pub use local::Local;
pub use metrics::Metric;
pub use sample::{Prompt, Sample};
pub use served::Served;
pub use variant::{Error as VariantError, Variant};
