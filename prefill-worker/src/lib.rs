//! The prefill worker: runs prompts one after another, sends each first token at once, and ships the
//! kept rows to a decode worker while later layers are still being computed. It owns the queue and the
//! thread that the engine runs on; it refuses to know text, placement and what becomes of the cache
//! after its receipt. Coordinators call it.

#![forbid(unsafe_code)]

mod config;
mod job;
mod links;
mod metrics;
mod queue;
mod run;
mod runner;
mod service;
mod shipment;

pub use config::{PrefillConfig, PrefillSection};
pub use run::PrefillWorker;
