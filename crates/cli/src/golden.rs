//! `lava golden`: the engine against recorded values of a reference implementation.

mod check;
mod file;
mod replay;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lava_engine::{Model, WeightFormat};

use crate::options::Golden;
use crate::{model, progress};

/// Prints one line per prompt and configuration.
pub(crate) fn run(options: &Golden) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let golden: file::Golden = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a golden file", options.file.display()))?;
    let files = model::find(&options.model)?;
    let model = progress::load(&files, WeightFormat::F16Rounded)?;
    same_shape(&golden, &model)?;

    println!("{}", check::HEADER);
    let mut passed = true;
    for (index, prompt) in golden.prompts.iter().enumerate() {
        let full = replay::full(&model, prompt)?;
        for config in &prompt.configs {
            let measured = replay::compressed(&model, &golden, prompt, config, &full)?;
            let check = check::Check::new(prompt, config, &full, &measured);
            println!("{}", check.line(index, config));
            passed &= check.passed();
        }
    }
    println!("{}", check::TOLERANCES);
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
