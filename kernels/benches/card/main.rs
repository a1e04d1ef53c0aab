//! How fast the kernels of GPUs are on a card, beside their floors: `cargo bench --features lava-cli/cuda --bench card`.
//! `kernels/tests/it/card_bench.rs` runs the same cases at small sizes on a CPU that watches them.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod appending;
mod arguments;
mod caches;
mod cases;
mod clock;
mod decoding;
mod gathering;
mod memory;
mod prefill;
mod random;
mod ranking;
mod report;
mod scoring;
mod stock;
mod task;

use std::sync::Arc;

use anyhow::{Context, Result};
use lava_kernels::cuda::{CudaDevice, Device, DeviceError};

use arguments::Arguments;
use cases::Case;
use clock::Clock;
use report::{HEADING, Line};
use stock::Stock;

fn main() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let card = Arc::new(CudaDevice::open_queue(arguments.device)?);
    let name = card.name();
    let cases = cases::of_llama_8b(arguments.is_quick);
    println!("{name}, one layer of Llama-3.1-8B. Floors are those of an H100 SXM5.\n\n{HEADING}");
    let mut lines = Vec::new();
    let outcome = measure(&card, &cases, &mut lines);
    // Figures from before a failure are worth keeping.
    if let Some(file) = &arguments.json {
        let values: Vec<_> = lines.iter().map(|line| line.json(&name)).collect();
        let text = serde_json::to_string_pretty(&values)?;
        std::fs::write(file, text + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(outcome?)
}

/// Prints each line as soon as it is known.
fn measure<'a>(
    card: &Arc<CudaDevice>,
    cases: &'a [Case],
    lines: &mut Vec<Line<'a>>,
) -> Result<(), DeviceError> {
    let device: Arc<dyn Device> = Arc::clone(card) as _;
    let stock = Stock::new(&device)?;
    let clock = Clock::new(card, &stock)?;
    let memory_bytes = device.memory_bytes()?;
    let mut skipped = Vec::new();
    for case in cases {
        if case.task.memory_bytes() as u64 > memory_bytes / 2 {
            skipped.push((case, "needs more than half of the card's memory".to_owned()));
            continue;
        }
        let prepared = match case.task.prepare(&stock) {
            Ok(prepared) => prepared,
            Err(error @ DeviceError::NoMemory { .. }) => {
                skipped.push((case, error.to_string()));
                continue;
            }
            Err(error) => return Err(error),
        };
        let measured = clock.time(&prepared)?;
        let line = Line { case, measured };
        println!("{}", line.text());
        lines.push(line);
    }
    for (case, reason) in skipped {
        println!("\nskipped {}: {reason}", case.name());
    }
    Ok(())
}
