//! `cargo xtask gpu`: everything that a GPU has to prove and to show, packed into one folder. It runs on a machine that has a driver, CUDA's
//! libraries and nothing else of ours, by `./run` in that folder: this program again, which is in it.

mod answers;
mod baseline;
mod bundle;
mod part;
mod report;
mod run;

use std::path::PathBuf;

use anyhow::Result;

use crate::cuda;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run what is packed in this folder, instead of packing.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Pack, and run here.
    #[arg(long, conflicts_with = "bundle")]
    run: bool,
    #[command(flatten)]
    host: run::Host,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(bundle) = &options.bundle {
        return run::all(bundle, &options.host);
    }
    let folder = pack(&cuda::build()?)?;
    println!(
        "{} has all that a GPU host needs: copy it there and start ./run in it",
        folder.display()
    );
    match options.run {
        true => run::all(&folder, &options.host),
        false => Ok(()),
    }
}

/// Packs what was built.
pub(crate) fn pack(built: &cuda::Built) -> Result<PathBuf> {
    bundle::pack(built)
}
