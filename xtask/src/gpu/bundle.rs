//! What is packed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cuda::Built;
use crate::{models, shell};

/// Names of what lies in a bundle.
pub(super) const LAVA: &str = "lava";
pub(super) const TWINS: &str = "twin-tests";
pub(super) const KERNELS: &str = "kernel-bench";
pub(super) const MODEL: &str = "model.gguf";
pub(super) const GOLDEN: &str = "golden.json";
pub(super) const PROMPT: &str = "prompt.txt";
pub(super) const BASELINE: &str = "baseline.py";
pub(super) const COMMIT: &str = "commit";
const XTASK: &str = "xtask";
const RUN: &str = "run";

/// Starts this program on the folder that it lies in.
const SCRIPT: &str = "#!/bin/sh
here=$(cd \"$(dirname \"$0\")\" && pwd)
exec \"$here/xtask\" gpu --bundle \"$here\" \"$@\"
";

/// Makes the folder anew.
pub(super) fn pack(built: &Built) -> Result<PathBuf> {
    let folder = shell::target().join("gpu");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)?;
    let xtask = std::env::current_exe().context("this program does not know where it lies")?;
    for (program, name) in [
        (&built.lava, LAVA),
        (&built.twins, TWINS),
        (&built.kernels, KERNELS),
        (&xtask, XTASK),
    ] {
        // Symbols are most of a program, and of no use there.
        let mut strip = shell::program("strip");
        shell::run(strip.arg("-o").arg(folder.join(name)).arg(program))?;
    }
    let root = shell::root();
    for (file, name) in [
        (models::smollm2()?, MODEL),
        (root.join("crates/cli/tests/data/smollm2.json"), GOLDEN),
        (root.join("crates/cli/demo/prompt.txt"), PROMPT),
        (root.join("xtask/src/gpu/baseline.py"), BASELINE),
    ] {
        let to = folder.join(name);
        std::fs::copy(&file, &to)
            .with_context(|| format!("cannot copy {} to {}", file.display(), to.display()))?;
    }
    std::fs::write(folder.join(COMMIT), commit()?)?;
    script(&folder.join(RUN))?;
    Ok(folder)
}

/// What the programs were built from.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| shell::output(shell::program("git").args(arguments));
    let changed = match git(&["status", "--porcelain"])?.is_empty() {
        true => "",
        false => " with changes",
    };
    Ok(format!(
        "{}{changed}\n",
        git(&["rev-parse", "--short", "HEAD"])?.trim()
    ))
}

fn script(at: &Path) -> Result<()> {
    std::fs::write(at, SCRIPT)?;
    shell::run(Command::new("chmod").arg("+x").arg(at))
}
