//! `lava bench`: how fast the engine is on this machine, and a server under load.

mod coordinator;
mod decode;
mod engine;
mod fleet;
mod replay;
mod serve;
mod together;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Arguments of `lava bench`.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time that a coordinator adds, and requests per second that it takes, among simulated workers.
    Coordinator(coordinator::Coordinator),
    /// Tokens per second of a batch over caches of one budget, for each row format.
    Decode(decode::Decode),
    /// Tokens per second and memory of prompts and of batches, over lengths, budgets and batch sizes.
    Engine(engine::Engine),
    /// Placement of a trace of real requests by several coordinators on a fleet of simulated workers.
    Replay(replay::Replay),
    /// Latencies and throughput of a coordinator under requests that do not wait for each other.
    Serve(Box<serve::Serve>),
    /// Up to which length a prompt is best computed beside the decode worker: `placement.together_tokens_max`.
    Together(together::Together),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match &bench.what {
        What::Coordinator(options) => coordinator::run(options),
        What::Decode(options) => decode::run(options),
        What::Engine(options) => engine::run(options),
        What::Replay(options) => replay::run(options),
        What::Serve(options) => serve::run(options),
        What::Together(options) => together::run(options),
    }
}
