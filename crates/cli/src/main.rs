//! The `lava` binary: starts coordinators and workers, each in its own process or all in one, asks a
//! coordinator for an answer, runs a model in this process, and checks an engine against golden files.
//! It owns argument parsing and printing; everything else is a library's.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod coordinator;
mod drain;
mod eval;
mod files;
mod generate;
mod golden;
mod gpus;
mod heap;
mod model;
mod options;
mod pair;
mod process;
mod progress;
mod remote;
mod report;
mod serve;
mod simulate;
mod worker;
mod workers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Language models with a compressed KV cache.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run coordinator, prefill worker and decode worker in one process.
    Serve(serve::Serve),
    /// Run a coordinator.
    Coordinator(process::ConfigArgs),
    /// Run a prefill worker.
    Prefill(workers::WorkerArgs),
    /// Run a decode worker.
    Decode(workers::WorkerArgs),
    /// Run a prefill and a decode worker in one process, with one model in memory.
    Worker(process::ConfigArgs),
    /// List GPUs that models can run on, and what is missing.
    Gpus,
    /// Let a worker finish what it has and end.
    Drain(drain::Drain),
    /// Answer a prompt and show what the cache kept: in this process, or from a coordinator.
    Generate(Box<options::Generate>),
    /// Measure what policies and budgets cost in quality.
    Eval(Box<eval::Eval>),
    /// Measure how fast the engine is, or a server under load.
    Bench(Box<bench::Bench>),
    /// Compare the engine with a golden file; fails past the tolerances.
    Golden(options::Golden),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(options) => serve::run(&options).map(done),
        Command::Coordinator(args) => coordinator::run(&args).map(done),
        Command::Prefill(args) => workers::prefill(&args).map(done),
        Command::Decode(args) => workers::decode(&args).map(done),
        Command::Worker(args) => worker::run(&args).map(done),
        Command::Gpus => gpus::run().map(done),
        Command::Drain(options) => drain::run(&options).map(done),
        Command::Generate(options) => match &options.addr[..] {
            [] => generate::run(&options).map(done),
            addresses => remote::run(&options, addresses).map(done),
        },
        Command::Eval(options) => eval::run(&options).map(done),
        Command::Bench(options) => bench::run(&options).map(done),
        Command::Golden(options) => golden::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
