//! The `lava` binary that runs models on GPUs too, and what tests and times its kernels on one. It needs CUDA's compiler to be built, and nothing of CUDA to start:
//! on a machine without a GPU it serves on the CPU, and says what a GPU would need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::toolkit::Toolkit;
use crate::{models, shell};

/// What is built with CUDA.
pub(crate) struct Built {
    /// The binary.
    pub(crate) lava: PathBuf,
    /// The tests of kernels against their references.
    pub(crate) twins: PathBuf,
    /// The benchmark of kernels.
    pub(crate) kernels: PathBuf,
}

/// Builds all as demo and tests are built, and leaves the binary where the next build does not replace it.
pub(crate) fn build(toolkit: &Toolkit, out: &Path) -> Result<Built> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--workspace", "--bin", "lava"]);
    cargo.args(["--features", "lava-cli/cuda"]);
    shell::run(cargo.env("CUDA_HOME", toolkit.home()))?;
    let lava = out.join("lava");
    std::fs::copy(shell::target().join("debug/lava"), &lava)
        .with_context(|| format!("cannot write {}", lava.display()))?;

    let mut cargo = shell::cargo();
    cargo.args(["test", "--no-run", "--locked", "--workspace"]);
    cargo.args(["--test", "kernels", "--bench", "card"]);
    cargo.args(["--features", "lava-cli/cuda"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = shell::output(cargo.env("CUDA_HOME", toolkit.home()))?;
    Ok(Built {
        lava,
        twins: executable(&messages, "kernels")?,
        kernels: executable(&messages, "card")?,
    })
}

/// Where cargo says that it has put a target.
fn executable(messages: &str, target: &str) -> Result<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == target;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    paths
        .next()
        .with_context(|| format!("cargo has built no {target}"))
}

/// Asks for a GPU, and demands that what is not there, or not right, is named.
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
    names("a driver", &said, "libcuda.so.1 cannot be loaded")?;
    let fake = |name: &str, libraries: &[(&str, &str)]| fake_libraries(&out.join(name), libraries);
    let no_blas = fake("no-cublas", &[("cuda", NEW_DRIVER)])?;
    names(
        "cuBLAS",
        &ask(Some(&no_blas))?.1,
        "libcublas.so.13 cannot be loaded",
    )?;
    let old = fake("old-driver", &[("cuda", OLD_DRIVER), ("cublas", NOTHING)])?;
    let expected = "the driver knows CUDA up to 12.4, expected 13.0 or newer";
    names("a new driver", &ask(Some(&old))?.1, expected)?;
    let no_gpu = fake("no-gpu", &[("cuda", NEW_DRIVER), ("cublas", NOTHING)])?;
    names("a GPU", &ask(Some(&no_gpu))?.1, "CUDA_ERROR_NO_DEVICE")?;

    let mut decode = Command::new(lava);
    decode.args([
        "decode",
        "--set",
        "model.device=\"cuda:0\"",
        "--set",
        "transfer.link=\"nccl\"",
    ]);
    decode.arg("--set").arg(crate::binary::model(&model)?);
    let said = String::from_utf8_lossy(&decode.output()?.stderr).into_owned();
    names("NCCL", &said, "libnccl.so.2 cannot be loaded")?;

    // NCCL is there, and has all that is asked of it; it needs no GPU to make an id.
    let listed = gpus(lava, Some(&toolkit.nccl()))?;
    if !listed.contains("NCCL             2.28.9") {
        bail!("NCCL 2.28.9 is there, and lava cannot use it:\n{listed}");
    }
    let listed = gpus(lava, None)?;
    for library in ["libcuda.so.1", "libcublas.so.13", "libnccl.so.2"] {
        if !listed.lines().any(|line| line.starts_with(library)) {
            bail!("`lava gpus` does not say whether {library} is there:\n{listed}");
        }
    }
    println!("lava with CUDA starts here, and names what a GPU would need; all in all:\n{listed}");
    Ok(())
}

fn names(lacks: &str, said: &str, expected: &str) -> Result<()> {
    match said.contains(expected) && !said.contains("panicked") {
        true => Ok(()),
        false => bail!("lava lacks {lacks}, and does not say {expected:?}:\n{said}"),
    }
}

fn gpus(lava: &Path, libraries: Option<&Path>) -> Result<String> {
    let mut gpus = Command::new(lava);
    if let Some(folder) = libraries {
        gpus.env("LD_LIBRARY_PATH", folder);
    }
    let output = gpus.arg("gpus").output().context("cannot start lava")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is packed for GPU hosts starts here, and says what is missing.
pub(crate) fn check_bundle(bundle: &Path) -> Result<()> {
    let run = Command::new(bundle.join("run")).output()?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let failed = String::from_utf8_lossy(&run.stderr).into_owned();
    if run.status.success() {
        println!("the bundle has run on the GPU of this machine:\n{said}");
        return Ok(());
    }
    if !failed.contains("this machine cannot run any of it") || !failed.contains("libcuda.so.1") {
        bail!("the bundle does not say what a machine without a GPU lacks:\n{said}{failed}");
    }
    // What it does without one works.
    let mut rehearsal = Command::new(bundle.join("run"));
    shell::run(rehearsal.arg("--rehearse"))?;
    println!(
        "{} starts here, and names what is missing",
        bundle.display()
    );
    Ok(())
}

/// A library with nothing in it.
const NOTHING: &str = "typedef int nothing;";

/// A driver of a machine whose GPU is gone.
const NEW_DRIVER: &str = r#"
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { return 100; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "no device"; return 0; }
"#;

/// A driver of another time.
const OLD_DRIVER: &str = "int cuDriverGetVersion(int *version) { *version = 12040; return 0; }";

/// A folder with libraries made of these sources, under every name that they are looked for by.
fn fake_libraries(folder: &Path, libraries: &[(&str, &str)]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    for (name, source) in libraries {
        let file = folder.join(format!("{name}.c"));
        std::fs::write(&file, format!("{source}\n"))?;
        let library = folder.join(format!("lib{name}.so"));
        let mut compiler = Command::new("gcc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
        shell::run(compiler.arg(&file))?;
        for number in ["1", "13"] {
            std::fs::copy(&library, folder.join(format!("lib{name}.so.{number}")))?;
        }
    }
    Ok(folder.to_owned())
}
