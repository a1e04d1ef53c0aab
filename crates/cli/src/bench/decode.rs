//! `lava bench decode`: what row formats cost and gain.

use anyhow::{Context, Result};
use clap::Args;
use lava::Method;
use lava_engine::RowFormat;
use lava_lab::bench::{self, DecodeCase, Rounds};

use crate::options::{Place, Weights};
use crate::report::bytes;
use crate::{model, progress};

/// Arguments of `lava bench decode`.
#[derive(Args)]
pub(super) struct Decode {
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model).
    #[arg(long)]
    model: String,
    /// Sequences of a step.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Entries kept per layer and KV head, the window included, on average.
    #[arg(long, default_value_t = 1024)]
    budget: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Which rows are kept.
    #[arg(long, default_value = "lava-peaks")]
    policy: Method,
    /// What is compared; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "f16,int8,fp8,int4")]
    row_formats: Vec<RowFormat>,
    /// Steps of a round.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How weights are held.
    #[arg(long, value_enum, default_value_t = Weights::Stored)]
    weights: Weights,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(options: &Decode) -> Result<()> {
    let files = model::find(&options.model)?;
    let model = progress::load_at(&files, options.weights.into(), &options.place)?;
    let case = |&format| DecodeCase {
        prompt_tokens: options.prompt_tokens as usize,
        method: options.policy,
        budget: options.budget,
        format,
        batch: options.batch.into(),
        page_rows: None,
    };
    let cases: Vec<DecodeCase> = options.row_formats.iter().map(case).collect();
    let first = cases.first().context("give a row format")?.format;
    let rounds = Rounds {
        rounds: options.rounds as usize,
        steps: options.steps as usize,
    };
    let rates = bench::decode(&model, &cases, rounds)?;
    println!(
        "decode of {} sequences, {} entries kept of {} tokens, medians of {} rounds of {} steps",
        options.batch, options.budget, options.prompt_tokens, options.rounds, options.steps
    );
    println!("rows     cache     tokens/s  of {first}'s");
    for (case, rate) in cases.iter().zip(rates) {
        println!(
            "{:<6} {:>9} {:>10.1} {:>8.2}",
            case.format.name(),
            bytes(rate.cache_bytes),
            rate.tokens_per_second,
            rate.ratio
        );
    }
    Ok(())
}
