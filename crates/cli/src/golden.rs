//! `lava golden`: the engine against recorded values of a reference implementation.

mod check;
mod file;
mod replay;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lava_engine::{Model, RowFormat, WeightFormat};

use crate::options::Golden;
use crate::{model, progress};

/// Prints one line per prompt and configuration. On a GPU the weights, what products take, and the rows are of 16 bits, so tolerances are
/// wider there.
pub(crate) fn run(options: &Golden) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let golden: file::Golden = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a golden file", options.file.display()))?;
    let files = model::find(&options.model)?;
    let model = progress::load_at(&files, WeightFormat::F16Rounded, &options.place)?;
    same_shape(&golden, &model)?;
    let (format, tolerances) = match model.device_bytes()? {
        None => (RowFormat::F32, check::SINGLE),
        Some(_) if options.place.is_half() => (RowFormat::F16, check::HALF),
        Some(_) => bail!("--compute is bf16, expected f16: the file's weights are exact in that"),
    };

    println!("{}", check::HEADER);
    let mut passed = true;
    for (index, prompt) in golden.prompts.iter().enumerate() {
        let replay = replay::Replay {
            model: &model,
            golden: &golden,
            prompt,
            format,
        };
        let full = replay.full()?;
        for config in &prompt.configs {
            let measured = replay.compressed(config, &full)?;
            let check = check::Check::new(prompt, config, &full, &measured, &tolerances);
            println!("{}", check.line(index, config));
            passed &= check.passed();
        }
    }
    println!("{tolerances}");
    if passed {
        println!("passed");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("FAILED: rows marked ! are past the tolerances");
        Ok(ExitCode::FAILURE)
    }
}

fn same_shape(golden: &file::Golden, model: &Model) -> Result<()> {
    let (file, ours) = (&golden.model, model.config());
    let expected = (file.layers, file.heads, file.kv_heads, file.head_dim);
    let found = (ours.layers, ours.q_heads, ours.kv_heads, ours.head_dim);
    if expected != found {
        bail!(
            "the golden file was made with {} (layers, heads, KV heads, head dim {expected:?}); \
             this model has {found:?}",
            file.source
        );
    }
    Ok(())
}
