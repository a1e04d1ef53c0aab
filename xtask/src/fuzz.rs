//! Looks for inputs that break a law of `crates/fuzz`: libFuzzer keeps inputs that reach new code and changes them further. Only our own
//! crates are compiled with counters, by a wrapper around their compiler, so that what they depend on is built once for everything. It
//! needs no nightly Rust, since there is no sanitizer among it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{available_parallelism, scope};

use anyhow::{Context, Result, bail};

use crate::shell;

/// What makes a compiler count edges and show comparisons to libFuzzer.
const COUNTERS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Crates without counters: no stranger's bytes steer them, and their loops are hot.
const UNCOUNTED: [&str; 3] = ["lava_kernels", "lava_cuda_on_cpu", "lava_test_support"];

/// Bounds of one input: its length, its time, and memory of the process. Targets have narrower bounds of memory.
const BOUNDS: [&str; 3] = ["-max_len=16384", "-timeout=20", "-rss_limit_mb=2048"];

/// Lines of a log that are shown of a failure.
const SHOWN_LINES: usize = 60;

/// What is to be done.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target, by the name of its folder in crates/fuzz/corpus; all of them if none is given.
    #[arg(long)]
    target: Option<String>,
    /// How long each target is searched.
    #[arg(long, default_value_t = SECONDS, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The same seed changes inputs in the same order.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seed: u32,
    /// Put this input through instead of searching.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Afterwards add what reached new code to the corpus.
    #[arg(long)]
    keep: bool,
    /// Only write what the search begins with: what real peers send.
    #[arg(long)]
    seeds: bool,
}

/// Time for each target where none is said, as in CI.
const SECONDS: u32 = 10;

/// As a wrapper of the compiler, if cargo calls us as one: the command with counters.
pub(crate) fn wrapped() -> Option<Command> {
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next()?;
    if Path::new(&compiler).file_stem()? != "rustc" {
        return None;
    }
    let words: Vec<OsString> = words.collect();
    let named = words.iter().position(|word| word == "--crate-name");
    let name = named.and_then(|at| words.get(at + 1));
    // Build scripts have other names; nothing there would take the counters in.
    let is_counted = name
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("lava") && !UNCOUNTED.contains(&name));
    let mut command = Command::new(compiler);
    command.args(words);
    if is_counted {
        command.args(COUNTERS);
    }
    Some(command)
}

/// Searches all targets with the settings of CI.
pub(crate) fn ci() -> Result<()> {
    run(&Options {
        target: None,
        seconds: SECONDS,
        seed: 1,
        input: None,
        keep: false,
        seeds: false,
    })
}

/// Searches, and fails if a law is broken.
pub(crate) fn run(options: &Options) -> Result<()> {
    let fuzzer = build()?;
    if options.seeds {
        let seeds = format!("--seeds={}", corpus().display());
        return shell::run(Command::new(&fuzzer).args(["-ignore_remaining_args=1", &seeds]));
    }
    if let (Some(input), Some(target)) = (&options.input, &options.target) {
        let mut replay = Command::new(&fuzzer);
        replay.args(BOUNDS).arg(std::path::absolute(input)?);
        return shell::run(replay.args(only(target)));
    }
    let targets = targets(options)?;
    println!(
        "{} s for each target, seed {}\n{:<14}{:>10}{:>10}{:>10}{:>10}",
        options.seconds, options.seed, "target", "inputs", "a second", "edges", "corpus"
    );
    let next = Mutex::new(targets.iter());
    let failed = Mutex::new(Vec::new());
    scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = { next.lock().expect("nobody panics with it").next() } {
                    match search(&fuzzer, target, options) {
                        Ok(row) => println!("{row}"),
                        Err(error) => {
                            failed.lock().expect("nobody panics with it").push(error);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    if !failed.is_empty() {
        let failed: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
        bail!("{}", failed.join("\n"));
    }
    if options.keep {
        targets
            .iter()
            .try_for_each(|target| keep(&fuzzer, target))?;
    }
    Ok(())
}

/// The fuzzer. Everything is built as a workspace with its tests, so that what we depend on is what tests have built.
fn build() -> Result<PathBuf> {
    let xtask = std::env::current_exe().context("cannot find the program that runs")?;
    fs::create_dir_all(folder())?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--workspace", "--locked", "--test", "fuzzer"]);
    cargo.args(["--quiet", "--message-format", "json"]);
    let messages = shell::output(cargo.env("RUSTC_WORKSPACE_WRAPPER", xtask))?;
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executable.context("cargo named no executable")
}

fn folder() -> PathBuf {
    shell::target().join("fuzz")
}

/// The inputs in the repository.
fn corpus() -> PathBuf {
    shell::root().join("crates/fuzz/corpus")
}

/// The inputs that a search found on this machine.
fn found(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

fn targets(options: &Options) -> Result<Vec<String>> {
    let folders = fs::read_dir(corpus()).context("cannot read crates/fuzz/corpus")?;
    let names: std::io::Result<Vec<_>> = folders.map(|one| Ok(one?.file_name())).collect();
    let mut names: Vec<String> = names?
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect();
    names.sort();
    match &options.target {
        None => Ok(names),
        Some(target) if names.contains(target) => Ok(vec![target.clone()]),
        Some(target) => bail!("unknown target {target:?}; known are {}", names.join(", ")),
    }
}

/// The last arguments: they are the fuzzer's own.
fn only(target: &str) -> [String; 2] {
    [
        "-ignore_remaining_args=1".into(),
        format!("--target={target}"),
    ]
}

/// A row of the table.
fn search(fuzzer: &Path, target: &str, options: &Options) -> Result<String> {
    let found = found(target);
    fs::create_dir_all(&found)?;
    let log = folder().join(format!("{target}.log"));
    let broken = folder().join(format!("{target}-"));
    let mut command = Command::new(fuzzer);
    command
        .args(BOUNDS)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-seed={}", options.seed))
        .arg(format!("-artifact_prefix={}", broken.display()))
        .arg("-print_final_stats=1")
        // The first folder gets what is new.
        .args([&found, &corpus().join(target)])
        .args(only(target))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
    let status = command.status().context("cannot start the fuzzer")?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        bail!(
            "target {target} ({status}):\n{}\nthe log is {}; to see it again: cargo xtask fuzz --target {target} --input {}…",
            shown.join("\n"),
            log.display(),
            broken.display()
        );
    }
    let stat = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("-", |rest| rest.trim_start_matches(':').trim())
            .to_owned()
    };
    // "#123 DONE cov: 45 ft: 67 corp: 8/9b ..."
    let done = text.lines().rfind(|line| line.contains("DONE"));
    let words: Vec<&str> = done.unwrap_or_default().split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name);
        at.and_then(|at| words.get(at + 1)).copied().unwrap_or("-")
    };
    Ok(format!(
        "{target:<14}{:>10}{:>10}{:>10}{:>10}",
        stat("stat::number_of_executed_units"),
        stat("stat::average_exec_per_sec"),
        after("cov:"),
        after("corp:").split('/').next().unwrap_or("-")
    ))
}

/// Adds to the repository what reaches code that its inputs do not.
fn keep(fuzzer: &Path, target: &str) -> Result<()> {
    let mut merge = Command::new(fuzzer);
    // How often an edge is passed would keep ten inputs for one.
    merge.args(BOUNDS).args(["-merge=1", "-use_counters=0"]);
    merge.args([corpus().join(target), found(target)]);
    merge.args(only(target));
    shell::run(merge.stderr(Stdio::null()))
}
