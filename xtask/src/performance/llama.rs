//! Against llama.cpp: both engines in turns, each round in processes of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::measure::Bench;
use super::parts::{Model, Run};
use crate::{shell, tools};

const SCRIPT: &str = "xtask/python/llama_cpp.py";

/// Requirement of pip, exact so that everybody compares with the same. It is built for this machine.
const PACKAGE: &str = "llama-cpp-python==0.3.36";

/// A Python that has llama-cpp-python, instead of an environment of ours.
const OWN_PYTHON: &str = "LAVA_LLAMA_PYTHON";

/// Written last.
const STAMP: &str = "stamp";

/// The Python that runs the script; an environment is made for it if it is not there.
pub(super) fn python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(OWN_PYTHON) {
        return Ok(shell::root().join(python));
    }
    // Not in target/tools, which is made anew whenever the Python client changes: this one takes ten minutes.
    let folder = std::path::absolute(shell::target().join("llama-cpp"))?;
    let python = folder.join("bin/python");
    if std::fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == PACKAGE) {
        return Ok(python);
    }
    println!("building llama.cpp, which takes ten minutes on two cores");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    tools::environment(&folder)
        .and_then(|()| {
            let mut pip = Command::new(&python);
            pip.current_dir(shell::root()).env("CMAKE_ARGS", "-DGGML_NATIVE=ON");
            pip.args(["-m", "pip", "install", "--quiet", "--retries", "3"]);
            pip.args(["--no-binary", "llama-cpp-python"]);
            shell::run(pip.arg(PACKAGE))
        })
        .with_context(|| {
            format!(
                "llama.cpp could not be built. This needs python3 with pip and a C++ compiler (on Debian: apt install \
                 python3-pip g++) and access to PyPI; or name a Python that has {PACKAGE} in {OWN_PYTHON}"
            )
        })?;
    std::fs::write(folder.join(STAMP), PACKAGE)?;
    Ok(python)
}

/// One model on both engines.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    /// In the record.
    pub(super) name: &'static str,
    model: Model,
    prefill_tokens: &'static str,
    decode_tokens: &'static str,
    /// Entries of the compact cache that is decoded over beside the full one.
    budget: u32,
    steps: u32,
    rounds: u32,
}

pub(super) fn comparisons(quick: bool) -> [Comparison; 2] {
    let smol = Comparison {
        name: "smollm2",
        model: Model::Smol,
        prefill_tokens: "512,2048,4096",
        decode_tokens: "8,512,2048",
        budget: 1024,
        steps: 16,
        rounds: 3,
    };
    let qwen = Comparison {
        name: "qwen2",
        model: Model::Qwen,
        prefill_tokens: "512,2048",
        ..smol.clone()
    };
    let tiny = |comparison| Comparison {
        prefill_tokens: "64,128",
        decode_tokens: "8,64",
        budget: 48,
        steps: 2,
        rounds: 2,
        ..comparison
    };
    match quick {
        true => [smol, qwen].map(tiny),
        false => [smol, qwen],
    }
}

impl Comparison {
    /// As the document shows them.
    pub(super) fn commands(&self, threads: u16) -> [String; 2] {
        let theirs = self.script_arguments(threads).join(" ");
        [
            self.ours().shown(threads),
            format!("python {SCRIPT} {theirs} --model {}", self.model.file()),
        ]
    }

    /// Rounds of both engines, whose first alternates.
    pub(super) fn measure(&self, bench: &Bench, python: &Path) -> Result<Value> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            println!("{}, round {} of {}", self.name, round + 1, self.rounds);
            if round % 2 == 0 {
                ours.push(bench.run(&self.ours())?);
            }
            theirs.push(self.theirs(bench.threads, python)?);
            if round % 2 == 1 {
                ours.push(bench.run(&self.ours())?);
            }
        }
        Ok(json!({"budget": self.budget, "ours": ours, "theirs": theirs}))
    }

    fn ours(&self) -> Run {
        let Self {
            prefill_tokens,
            decode_tokens,
            budget,
            steps,
            ..
        } = self;
        let words = format!(
            "engine --prefill-tokens {prefill_tokens} --decode-tokens {decode_tokens} --batches 1 --budgets {budget} \
             --full --steps {steps} --rounds 1"
        );
        Run {
            name: self.name,
            model: self.model,
            arguments: words.split(' ').map(str::to_owned).collect(),
            trace: None,
        }
    }

    fn theirs(&self, threads: u16, python: &Path) -> Result<Value> {
        let mut script = Command::new(python);
        script.current_dir(shell::root()).arg(SCRIPT);
        script.args(self.script_arguments(threads));
        let words = shell::output(script.arg("--model").arg(self.model.path()?))
            .with_context(|| format!("is {PACKAGE} installed for {}?", python.display()))?;
        serde_json::from_str(&words)
            .with_context(|| format!("{SCRIPT} did not print JSON: {words}"))
    }

    fn script_arguments(&self, threads: u16) -> Vec<String> {
        let Self {
            prefill_tokens,
            decode_tokens,
            steps,
            ..
        } = self;
        let words = format!(
            "--threads {threads} --batch 512 --prefill-tokens {prefill_tokens} --decode-tokens {decode_tokens} --steps \
             {steps}"
        );
        words.split(' ').map(str::to_owned).collect()
    }
}
