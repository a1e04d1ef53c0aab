//! The `lava` binary: runs a model under LAVa in this process, and checks an engine against golden
//! files. It owns argument parsing and printing; everything else is a library's.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod generate;
mod golden;
mod model;
mod options;
mod progress;
mod report;

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
    /// Answer a prompt and show what the cache kept.
    Generate(Box<options::Generate>),
    /// Compare the engine with a golden file; fails past the tolerances.
    Golden(options::Golden),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(options) => generate::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Golden(options) => golden::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
