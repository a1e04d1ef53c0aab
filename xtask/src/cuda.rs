//! The kernels of GPUs, compiled for every card that we build for, and the binary that has them; no GPU is needed. What the compiler says of each
//! kernel is kept in the repository, so that a change that costs registers is seen.

mod binary;
mod resources;
mod toolkit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::{gpu, shell};
pub(crate) use binary::Built;
use resources::Resources;
use toolkit::Toolkit;

const SOURCES: &str = "kernels/cuda";
const RECORD: &str = "kernels/cuda/resources.txt";

/// From the first with bf16 and copies that do not wait to those that serve today.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// Compilers at once.
const COMPILERS: usize = 2;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write what the compiler says of each kernel to the repository.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let toolkit = toolkit::ensure()?;
    lints(&toolkit)?;
    let found = compile(&toolkit)?;
    check_spills(&found)?;
    let table = resources::table(&found);
    let built = binary::build(&toolkit, &out())?;
    binary::check(&built.lava, &toolkit, &out())?;
    binary::check_bundle(&gpu::pack(&built)?)?;
    let path = shell::root().join(RECORD);
    if options.write {
        std::fs::write(&path, table)?;
        println!("{RECORD} is written");
        return Ok(());
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    if recorded != table {
        bail!(
            "kernels use other registers or memory than {RECORD} says:\n{}if that is meant, run \
             `cargo xtask cuda --write`",
            resources::difference(&recorded, &table)
        );
    }
    println!(
        "{} kernels compile for {}; {} has them",
        found.len() / ARCHITECTURES.len(),
        ARCHITECTURES.join(" and "),
        built.lava.display()
    );
    Ok(())
}

/// The programs that need the compiler.
pub(crate) fn build() -> Result<Built> {
    binary::build(&toolkit::ensure()?, &out())
}

/// Of the code that drives a card, which the other lints do not see. It needs no CUDA but the compiler.
fn lints(toolkit: &Toolkit) -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--features",
        "lava-cli/cuda",
    ];
    let mut cargo = shell::cargo();
    cargo.args(clippy).args(["--", "-D", "warnings"]);
    shell::run(cargo.env("CUDA_HOME", toolkit.home()))
}

/// Where what is compiled lies.
fn out() -> PathBuf {
    shell::target().join("cuda")
}

/// A file and the architecture that it is compiled for.
type Unit = (PathBuf, &'static str);

fn compile(toolkit: &Toolkit) -> Result<Vec<Resources>> {
    let mut units = Vec::new();
    for source in sources()? {
        units.extend(ARCHITECTURES.map(|architecture| (source.clone(), architecture)));
    }
    let out = out();
    std::fs::create_dir_all(&out)?;
    let (units, found) = (Mutex::new(units), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        while let Some(unit) = next(&units) {
            let said = compile_unit(toolkit, &unit, &out)?;
            lock(&found).extend(resources::parse(&said, unit.1)?);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..COMPILERS).map(|_| scope.spawn(work)).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().expect("it does not panic"));
        ended.collect::<Result<Vec<()>>>()
    })?;
    let mut found = lock(&found).clone();
    found.sort();
    Ok(found)
}

fn next(units: &Mutex<Vec<Unit>>) -> Option<Unit> {
    lock(units).pop()
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(shell::root().join(SOURCES))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// What the compiler says; warnings are errors.
fn compile_unit(toolkit: &Toolkit, (source, architecture): &Unit, out: &Path) -> Result<String> {
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let mut nvcc: Command = toolkit.nvcc();
    nvcc.args([
        "-std=c++17",
        "-O3",
        "-cubin",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
    ])
    .arg(format!("-arch={architecture}"))
    .arg("-o")
    .arg(out.join(format!("{stem}.{architecture}.cubin")))
    .arg(source);
    let output = nvcc.output().context("cannot start nvcc")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!(
            "{} does not compile for {architecture}:\n{said}",
            source.display()
        );
    }
    Ok(said)
}

/// Registers that do not suffice cost memory accesses: somebody has to say why that is right.
fn check_spills(found: &[Resources]) -> Result<()> {
    let mut text = String::new();
    for source in sources()? {
        text += &std::fs::read_to_string(source)?;
    }
    let unexplained: Vec<String> = found
        .iter()
        .filter(|kernel| {
            kernel.spilled_bytes > 0 && !text.contains(&format!("// Spills of {}:", kernel.name))
        })
        .map(|kernel| {
            format!(
                "{} ({}): {} bytes",
                kernel.name, kernel.architecture, kernel.spilled_bytes
            )
        })
        .collect();
    if !unexplained.is_empty() {
        bail!(
            "kernels spill registers, and no line `// Spills of NAME: ...` says why: {}",
            unexplained.join(", ")
        );
    }
    Ok(())
}
