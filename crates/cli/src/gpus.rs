//! `lava gpus`: what this machine has for GPUs, and what it lacks.

use anyhow::{Context, Result, bail};
use lava_engine::Gpus;

pub(crate) fn run() -> Result<()> {
    let found = Gpus::find()?;
    let found =
        found.context("this lava is built without CUDA: build it with the feature `cuda`")?;
    for (library, missing) in &found.libraries {
        match missing {
            Some(missing) => println!("{library:<16} missing: {missing}"),
            None => println!("{library:<16} found"),
        }
    }
    match &found.nccl {
        Ok(release) => println!(
            "{:<16} {}.{}.{}",
            "NCCL",
            release / 10_000,
            release / 100 % 100,
            release % 100
        ),
        Err(why) => println!("{:<16} cannot be used: {why}", "NCCL"),
    }
    for (number, (name, bytes)) in found.gpus.iter().enumerate() {
        println!("cuda:{number:<11} {name}, {:.1} GB", *bytes as f64 / 1e9);
    }
    if found.gpus.is_empty() {
        bail!("no GPU can be used");
    }
    Ok(())
}
