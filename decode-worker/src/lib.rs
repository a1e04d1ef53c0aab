//! The decode worker: sets memory aside before any compute is spent, takes caches in, and makes tokens
//! for all its sequences in batches. It owns reservations, slots and the thread that the engine runs on;
//! it refuses to know prompts, text and placement. Coordinators reserve and read tokens, prefill workers
//! ship.
//!
//! A slot has one owner at a time: the table of tickets until its transfer begins, the transfer until
//! the seal, then the batch. Whoever drops it frees its pages; its output tells it when the caller left.

#![forbid(unsafe_code)]

mod batch;
mod config;
mod intake;
mod metrics;
mod output;
mod run;
mod sequence;
mod service;
mod slot;
mod tickets;

pub use config::{DecodeConfig, DecodeSection};
pub use run::DecodeWorker;
