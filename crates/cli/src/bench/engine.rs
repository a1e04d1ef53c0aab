//! `lava bench engine`: prompts and batches, alone in this process.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use lava::{Method, Policy};
use lava_engine::{Model, RowFormat};
use lava_lab::bench::{self, DecodeCase, DecodeRate, PrefillCase, PrefillCost, Rounds};
use serde_json::{Value, json};

use crate::files::{self, Wanted};
use crate::heap::HEAP;
use crate::options::{Place, Weights};
use crate::report::bytes;
use crate::{model, progress};

/// Arguments of `lava bench engine`.
#[derive(Args)]
pub(super) struct Engine {
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model).
    #[arg(long)]
    model: String,
    /// Lengths of the prompts that are computed; none if nothing follows.
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_value = "512,2048,4096")]
    prefill_tokens: Vec<usize>,
    /// Lengths of the prompts that are decoded from; none if nothing follows.
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_value = "8,512,2048")]
    decode_tokens: Vec<usize>,
    /// Sequences of a step.
    #[arg(long, value_delimiter = ',', default_value = "1,8", value_parser = clap::value_parser!(u16).range(1..))]
    batches: Vec<u16>,
    /// Entries kept per layer and KV head, the window included, on average.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    budgets: Vec<usize>,
    /// Which rows are kept.
    #[arg(long, default_value = "lava-peaks")]
    policy: Method,
    /// How kept rows are stored.
    #[arg(long, default_value = "int4")]
    row_format: RowFormat,
    /// Decodes over full caches in half precision too.
    #[arg(long)]
    full: bool,
    /// Page sizes that are compared, as entries that a page holds in half precision; the model's own if not given.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(2..=4096))]
    page_rows: Vec<u16>,
    /// Steps of a round of decoding.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How weights are held.
    #[arg(long, value_enum, default_value_t = Weights::Stored)]
    weights: Weights,
    #[command(flatten)]
    place: Place,
    /// File that gets everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) fn run(options: &Engine) -> Result<()> {
    files::check(&[Wanted::ours("--json", options.json.as_ref())])?;
    let files = model::find(&options.model)?;
    let began = Instant::now();
    let model = progress::load_at(&files, options.weights.into(), &options.place)?;
    let load_seconds = began.elapsed().as_secs_f64();
    let file_bytes = files.bytes()?;
    println!(
        "weights  {} as held, {} in the file: {:.2}; loaded in {load_seconds:.1} s",
        bytes(model.weight_bytes()),
        bytes(file_bytes as usize),
        model.weight_bytes() as f64 / file_bytes as f64
    );
    let prefilled = prefill(options, &model)?;
    let decoded = decode(options, &model)?;
    if let Some(file) = &options.json {
        let document = json!({
            "model": options.model,
            "policy": options.policy.to_string(),
            "row_format": options.row_format.name(),
            "weight_bytes": model.weight_bytes(),
            "file_bytes": file_bytes,
            "load_seconds": load_seconds,
            "prefill": prefilled,
            "decode": decoded,
        });
        files::save(file, &serde_json::to_string_pretty(&document)?)?;
    }
    Ok(())
}

fn prefill(options: &Engine, model: &Model) -> Result<Vec<Value>> {
    let lengths = options.prefill_tokens.iter();
    let cases: Vec<PrefillCase> = lengths
        .flat_map(|&prompt_tokens| {
            options.budgets.iter().map(move |&budget| PrefillCase {
                prompt_tokens,
                method: options.policy,
                budget,
                format: options.row_format,
            })
        })
        .collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let costs = bench::prefill(model, &cases, options.rounds as usize, HEAP)?;
    println!("\nprefill, medians of {} rounds", options.rounds);
    println!(
        "{:>7} {:>7} {:>10} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "tokens",
        "budget",
        "tokens/s",
        "scoring",
        "peak",
        "hidden",
        "full K,V",
        "block",
        "rows",
        "of sum"
    );
    for (case, cost) in cases.iter().zip(&costs) {
        let sum = cost.parts.total() + cost.page_bytes;
        println!(
            "{:>7} {:>7} {:>10.1} {:>7.2} % {:>10} {:>10} {:>10} {:>10} {:>10} {:>7.2}",
            case.prompt_tokens,
            case.budget,
            cost.tokens_per_second,
            100.0 * cost.scoring_share,
            bytes(cost.peak_bytes),
            bytes(cost.parts.hidden),
            bytes(cost.parts.full_kv),
            bytes(cost.parts.block),
            bytes(cost.page_bytes),
            cost.peak_bytes as f64 / sum as f64
        );
    }
    Ok(cases.iter().zip(&costs).map(prefill_json).collect())
}

fn prefill_json((case, cost): (&PrefillCase, &PrefillCost)) -> Value {
    json!({
        "prompt_tokens": case.prompt_tokens,
        "budget": case.budget,
        "tokens_per_second": cost.tokens_per_second,
        "scoring_share": cost.scoring_share,
        "peak_bytes": cost.peak_bytes,
        "hidden_bytes": cost.parts.hidden,
        "full_kv_bytes": cost.parts.full_kv,
        "block_bytes": cost.parts.block,
        "page_bytes": cost.page_bytes,
    })
}

fn decode(options: &Engine, model: &Model) -> Result<Vec<Value>> {
    let cases = decode_cases(options);
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let rounds = Rounds {
        rounds: options.rounds as usize,
        steps: options.steps as usize,
    };
    let rates = bench::decode(model, &cases, rounds)?;
    println!(
        "\ndecode, medians of {} rounds of {} steps, all cases in turns",
        options.rounds, options.steps
    );
    println!(
        "{:>7} {:<11} {:>7} {:>6} {:>10} {:>12} {:>6} {:>10} {:>10} {:>10}",
        "tokens",
        "policy",
        "budget",
        "batch",
        "tokens/s",
        "of the first",
        "rows",
        "cache",
        "in pages",
        "full cache"
    );
    for (case, rate) in cases.iter().zip(&rates) {
        println!(
            "{:>7} {:<11} {:>7} {:>6} {:>10.1} {:>12.2} {:>6} {:>10} {:>10} {:>10}",
            case.prompt_tokens,
            case.method.to_string(),
            case.budget,
            case.batch,
            rate.tokens_per_second,
            rate.ratio,
            case.format.name(),
            bytes(rate.cache_bytes),
            bytes(rate.page_bytes),
            bytes(rate.full_bytes)
        );
    }
    Ok(cases.iter().zip(&rates).map(decode_json).collect())
}

/// Page sizes change fastest, then what is kept, batches, and prompts.
fn decode_cases(options: &Engine) -> Vec<DecodeCase> {
    let page_rows: Vec<Option<usize>> = match options.page_rows.as_slice() {
        [] => vec![None],
        given => given.iter().map(|&rows| Some(rows.into())).collect(),
    };
    let mut cases = Vec::new();
    for &prompt_tokens in &options.decode_tokens {
        let full = (Method::new(Policy::Full), prompt_tokens, RowFormat::F16);
        let cut = options.budgets.iter();
        let cut = cut.map(|&budget| (options.policy, budget, options.row_format));
        let kept: Vec<_> = cut.chain(options.full.then_some(full)).collect();
        for batch in options.batches.iter().map(|&batch| batch.into()) {
            for &(method, budget, format) in &kept {
                cases.extend(page_rows.iter().map(|&page_rows| DecodeCase {
                    prompt_tokens,
                    method,
                    budget,
                    format,
                    batch,
                    page_rows,
                }));
            }
        }
    }
    cases
}

fn decode_json((case, rate): (&DecodeCase, &DecodeRate)) -> Value {
    json!({
        "prompt_tokens": case.prompt_tokens,
        "policy": case.method.to_string(),
        "budget": case.budget,
        "batch": case.batch,
        "row_format": case.format.name(),
        "tokens_per_second": rate.tokens_per_second,
        "cache_bytes": rate.cache_bytes,
        "page_rows": case.page_rows,
        "page_bytes": rate.page_bytes,
        "full_bytes": rate.full_bytes,
    })
}
