//! The `lava` binary that runs models on GPUs too. It needs CUDA's compiler to be built, and nothing of CUDA to start:
//! on a machine without a GPU it serves on the CPU, and says what a GPU would need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolkit::Toolkit;
use crate::{models, shell};

/// Builds it as demo and tests are built, and leaves it where the next build does not replace it.
pub(crate) fn build(toolkit: &Toolkit, out: &Path) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--workspace", "--bin", "lava"]);
    cargo.args(["--features", "lava-cli/cuda"]);
    shell::run(cargo.env("CUDA_HOME", toolkit.home()))?;
    let lava = out.join("lava");
    std::fs::copy(shell::target().join("debug/lava"), &lava)
        .with_context(|| format!("cannot write {}", lava.display()))?;
    Ok(lava)
}

/// Asks for a GPU, and demands that a library that is not there is named.
pub(crate) fn check(lava: &Path, toolkit: &Toolkit, out: &Path) -> Result<()> {
    let model = models::smollm2()?;
    let ask = |libraries: Option<&Path>| {
        let mut command = Command::new(lava);
        command.args(["generate", "--prompt", "One", "--max-tokens", "1"]);
        command.args(["--device", "cuda:0", "--model"]).arg(&model);
        if let Some(folder) = libraries {
            command.env("LD_LIBRARY_PATH", folder);
        }
        let output = command.output().context("cannot start lava")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::Ok((output.status.success(), said))
    };
    let (works, said) = ask(None)?;
    if works {
        println!("lava runs on the GPU of this machine");
        return Ok(());
    }
    if !said.contains("libcuda.so.1 cannot be loaded") {
        bail!(
            "lava was asked for a GPU, and says neither an answer nor which library it lacks:\n{said}"
        );
    }
    // With a driver that has nothing in it, the next library is what is missing.
    let (_, said) = ask(Some(&empty_driver(out)?))?;
    if !said.contains("libcublas.so.13 cannot be loaded") {
        bail!("lava has a driver and no cuBLAS, and does not say so:\n{said}");
    }
    // NCCL is there, and has all that is asked of it; it needs no GPU to make an id.
    let mut gpus = Command::new(lava);
    gpus.arg("gpus").env("LD_LIBRARY_PATH", toolkit.nccl());
    let listed = String::from_utf8_lossy(&gpus.output()?.stdout).into_owned();
    if !listed.contains("NCCL             2.28.9") {
        bail!("NCCL 2.28.9 is there, and lava cannot use it:\n{listed}");
    }
    let listed = Command::new(lava).arg("gpus").output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in ["libcuda.so.1", "libcublas.so.13", "libnccl.so.2"] {
        if !listed.lines().any(|line| line.starts_with(library)) {
            bail!("`lava gpus` does not say whether {library} is there:\n{listed}");
        }
    }
    println!(
        "lava with CUDA starts here, and names the driver and cuBLAS as missing; all in all:\n{listed}"
    );
    Ok(())
}

/// A folder with a library that has the driver's name.
fn empty_driver(out: &Path) -> Result<PathBuf> {
    let folder = out.join("empty-driver");
    std::fs::create_dir_all(&folder)?;
    let source = folder.join("empty.c");
    std::fs::write(&source, "typedef int nothing;\n")?;
    let mut compiler = Command::new("gcc");
    compiler.args(["-shared", "-o"]);
    compiler.arg(folder.join("libcuda.so.1")).arg(&source);
    shell::run(&mut compiler)?;
    // Under every name that it is looked for by.
    std::fs::copy(folder.join("libcuda.so.1"), folder.join("libcuda.so"))?;
    Ok(folder)
}
