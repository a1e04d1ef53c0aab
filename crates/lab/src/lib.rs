//! What does a budget cost in quality? This crate owns the questions (tasks and readers of
//! published data sets), the marks (metrics), the arithmetic over them (intervals, paired
//! differences), the file that they are kept in, and the report. It refuses to know models,
//! tensors, tokenizers, policies and the network: whoever runs a model hands in text and numbers.
//! `lava eval` calls it.
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

pub use jsonl::{LINE_BYTES_MAX, LineError};
pub use metrics::Metric;
pub use sample::{Prompt, Sample};
