//! The one door for developers: `cargo xtask demo | cluster | bench | soak | faults | quality | performance | test |
//! fuzz | ci | tidy | codegen | golden | cuda | gpu`. It runs cargo and the `lava` binary and uses none of our crates.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod binary;
mod ci;
mod cluster;
mod codegen;
mod cuda;
mod demo;
mod document;
mod faults;
mod fuzz;
mod gpu;
mod http;
mod models;
mod performance;
mod process;
mod quality;
mod shell;
mod soak;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Build, test and try the project")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch a small model, start the three roles and answer a long prompt.
    Demo {
        /// More arguments for `lava generate`, after `--`.
        #[arg(last = true)]
        extra: Vec<String>,
    },
    /// Start a cluster on this machine to play with: etcd, workers, coordinators, and a prompt to kill, stop and ask
    /// them.
    Cluster(cluster::Options),
    /// Measure which share of prefill scoring and packing take; fails if it is too large.
    Bench(bench::Options),
    /// Let a server work through thousands of requests of all kinds; fails if anything is lost, held or leaked.
    Soak(soak::Options),
    /// Kill, freeze and cut off every role of a real cluster in the middle of requests; fails if a client sees it, if it
    /// takes too long, or if anything stays held. Needs root for its network namespaces.
    Faults(faults::Options),
    /// Set up and run all tests.
    Test {
        /// More arguments for `cargo test`, after `--`.
        #[arg(last = true)]
        extra: Vec<String>,
    },
    /// Look for inputs that break what must hold of everything that a stranger can send.
    Fuzz(fuzz::Options),
    /// Format, lints, tidy, then the tests and some fuzzing: what CI runs.
    Ci,
    /// Check the rules of the repository.
    Tidy,
    /// Write the Rust code of the .proto files.
    Codegen,
    /// Compile the kernels of GPUs and compare what they use with the record.
    Cuda(cuda::Options),
    /// Pack what a GPU host runs to prove the kernels and to measure them: twin tests, golden check, answers by gRPC and NCCL, benchmarks.
    Gpu(gpu::Options),
    /// Measure what budgets cost in quality and write the tables of docs/quality.md.
    Quality(quality::Options),
    /// Measure speed and memory and write the tables of docs/performance.md.
    Performance(performance::Options),
    /// Compare the engine with a golden file.
    Golden {
        /// The golden file.
        file: PathBuf,
        /// The GGUF it was made with.
        #[arg(long)]
        model: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(mut compiler) = fuzz::wrapped() {
        let status = compiler.status();
        let code = status.ok().and_then(|status| status.code());
        return code.map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8));
    }
    let result = match Cli::parse().verb {
        Verb::Demo { extra } => demo::run(&extra),
        Verb::Cluster(options) => cluster::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Soak(options) => soak::run(&options),
        Verb::Faults(options) => faults::run(&options),
        Verb::Test { extra } => test(&extra),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Ci => ci::run(),
        Verb::Tidy => tidy::run(),
        Verb::Codegen => codegen::run(),
        Verb::Cuda(options) => cuda::run(&options),
        Verb::Gpu(options) => gpu::run(&options),
        Verb::Quality(options) => quality::run(&options),
        Verb::Performance(options) => performance::run(&options),
        Verb::Golden { file, model } => golden(&file, &model),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test(extra: &[String]) -> Result<()> {
    let (models, tools) = (models::all()?, tools::ensure()?);
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--locked"]).args(extra);
    shell::run(cargo.env("LAVA_MODELS", models).env("LAVA_TOOLS", tools))
}

/// The paths are the caller's, the command runs at the root.
fn golden(file: &Path, model: &Path) -> Result<()> {
    let (file, model) = (std::path::absolute(file)?, std::path::absolute(model)?);
    shell::run(lava("golden").arg(file).arg("--model").arg(model))
}

/// `cargo run` of the binary. Everything is built as a workspace so that features, and with them the
/// built dependencies, are the same for every verb.
fn lava(command: &str) -> std::process::Command {
    let mut cargo = shell::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "lava-cli",
        "--bin",
        "lava",
        "--",
    ]);
    cargo.arg(command);
    cargo
}
