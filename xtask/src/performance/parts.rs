//! The parts of the document and what each of them runs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use crate::models;

/// A part of the document, by its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Prompts: tokens per second, the share of scoring, memory.
    Prefill,
    /// Batches over compact and full caches.
    Decode,
    /// What a batch gains, for each way to hold weights.
    Batch,
    /// A prompt of 30,000 tokens against one of 2,000, on the larger model; a quarter of an hour and more.
    Long,
    /// Against llama.cpp, in turns; builds it if LAVA_LLAMA_PYTHON names no Python with llama-cpp-python.
    Llama,
    /// Page sizes.
    Pages,
    /// A server under load.
    Serve,
    /// What a coordinator costs, and how it places a trace on a fleet of simulated workers.
    Coordinator,
}

impl Part {
    pub(super) const ALL: [Part; 8] = [
        Part::Prefill,
        Part::Decode,
        Part::Batch,
        Part::Long,
        Part::Llama,
        Part::Pages,
        Part::Serve,
        Part::Coordinator,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Prefill => "prefill",
            Part::Decode => "decode",
            Part::Batch => "batch",
            Part::Long => "long",
            Part::Llama => "llama",
            Part::Pages => "pages",
            Part::Serve => "serve",
            Part::Coordinator => "coordinator",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
    Smol,
    Qwen,
}

impl Model {
    /// Its file, fetched if it is not there.
    pub(super) fn path(self) -> Result<PathBuf> {
        let path = match self {
            Model::Smol => models::smollm2()?,
            Model::Qwen => models::qwen2()?,
        };
        Ok(std::path::absolute(path)?)
    }

    /// As the document shows it, whether it is there or not.
    pub(super) fn file(self) -> &'static str {
        match self {
            Model::Smol => "SmolLM2-135M-Instruct.Q4_1.gguf",
            Model::Qwen => "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        }
    }
}

/// One call of `lava bench`, which writes JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// In the record.
    pub(super) name: &'static str,
    pub(super) model: Model,
    /// All but the model and the file of JSON.
    pub(super) arguments: Vec<String>,
    /// A trace, given behind `--trace`.
    pub(super) trace: Option<PathBuf>,
}

/// What a part runs; nothing for the one that alternates engines.
pub(super) fn runs(part: Part, quick: bool, trace: Option<&Path>) -> Vec<Run> {
    let pick = |asked: &'static str, tiny: &'static str| if quick { tiny } else { asked };
    let smol = |name, words: String| run(name, Model::Smol, &words);
    match part {
        Part::Prefill => {
            let lengths = pick(
                "512,2048,4096 --budgets 128,1024",
                "64,128 --budgets 48,64 --rounds 1",
            );
            let memory = pick(
                "8000 --budgets 128 --rounds 1",
                "256 --budgets 48 --rounds 1",
            );
            let prefill = |lengths| format!("engine --decode-tokens --prefill-tokens {lengths}");
            vec![
                smol("speed", prefill(lengths)),
                smol("memory", prefill(memory)),
            ]
        }
        Part::Decode => {
            let sizes = pick("8,512,2048 --rounds 5", "8,64 --rounds 1 --steps 2");
            vec![smol(
                "main",
                format!("{} --decode-tokens {sizes} --full", decode(quick)),
            )]
        }
        Part::Batch => {
            let rounds = pick("--rounds 5", "--rounds 1 --steps 2");
            let weights = ["stored", "f32", "q8-0"];
            let of = |weights| {
                smol(
                    weights,
                    format!(
                        "{} --decode-tokens 8 {rounds} --weights {weights}",
                        decode(quick)
                    ),
                )
            };
            weights.map(of).into()
        }
        Part::Long => {
            let sizes = pick("2000,30000 --rounds 5", "64,256 --rounds 1 --steps 2");
            vec![run(
                "main",
                Model::Qwen,
                &format!("{} --decode-tokens {sizes} --full", decode(quick)),
            )]
        }
        Part::Llama => Vec::new(),
        Part::Pages => {
            let sizes = pick(
                "2048 --batches 8 --budgets 128,1024 --rounds 5",
                "128 --batches 2 --budgets 48,64 --rounds 1 --steps 2",
            );
            let words = "engine --prefill-tokens --page-rows 8,16,32,64";
            vec![smol("main", format!("{words} --decode-tokens {sizes}"))]
        }
        Part::Serve => serve(quick, trace),
        Part::Coordinator => coordinator(quick, trace),
    }
}

/// Costs; and if there is a trace, a fleet under all of it by three rules, and with workers that are killed.
fn coordinator(quick: bool, trace: Option<&Path>) -> Vec<Run> {
    let cost = match quick {
        true => "--seconds 1 --streams 10",
        false => "--seconds 8 --soak-seconds 600",
    };
    let fleet = match quick {
        true => "--requests 20 --prefill-workers 2 --decode-workers 2",
        false => "--speed 50",
    };
    let mut runs = vec![run("cost", Model::Smol, &format!("coordinator {cost}"))];
    for (name, words) in [
        ("aware", "--policy prefix_aware"),
        ("least loaded", "--policy least_loaded"),
        ("power of two", "--policy power_of_two"),
        ("killed", "--policy prefix_aware --kill-percent 10"),
    ] {
        let Some(trace) = trace else { break };
        let mut run = run(name, Model::Smol, &format!("replay {fleet} {words}"));
        run.trace = Some(trace.to_owned());
        runs.push(run);
    }
    runs
}

fn decode(quick: bool) -> String {
    let budget = if quick { 64 } else { 1024 };
    format!("engine --prefill-tokens --batches 1,8 --budgets {budget}")
}

/// Random arrivals, and if there is a trace its first requests: slowed down and shortened to what two cores bear.
fn serve(quick: bool, trace: Option<&Path>) -> Vec<Run> {
    let limits = "--ttft-ms 5000 --token-ms 250";
    let poisson = match quick {
        true => "--rate 4 --requests 4 --prompt-tokens 64 --output-tokens 4",
        false => {
            "--rate 0.4 --requests 80 --prompt-tokens lognormal:300,2000 --output-tokens 16..64"
        }
    };
    let of_trace = match quick {
        true => "--requests 3 --speed 1 --length-scale 0.01",
        false => "--requests 100 --speed 0.2 --length-scale 0.03",
    };
    let mut runs = vec![run(
        "poisson",
        Model::Smol,
        &format!("serve {poisson} {limits}"),
    )];
    if let Some(trace) = trace {
        let mut run = run("trace", Model::Smol, &format!("serve {of_trace} {limits}"));
        run.trace = Some(trace.to_owned());
        runs.push(run);
    }
    runs
}

fn run(name: &'static str, model: Model, words: &str) -> Run {
    Run {
        name,
        model,
        arguments: words.split(' ').map(str::to_owned).collect(),
        trace: None,
    }
}

impl Run {
    /// As the document shows it: files by their names only.
    pub(super) fn shown(&self, threads: u16) -> String {
        let words = self.arguments.join(" ");
        let mut shown = format!(
            "RAYON_NUM_THREADS={threads} lava bench {words} --model {}",
            self.model.file()
        );
        if let Some(name) = self.trace.as_deref().and_then(Path::file_name) {
            shown += &format!(" --trace {}", name.to_string_lossy());
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn commands_name_no_folder_of_this_machine() {
        let trace = PathBuf::from("/somewhere/else/trace.jsonl");
        let shown = |part| {
            let runs = runs(part, false, Some(&trace));
            let lines: Vec<String> = runs.iter().map(|run| run.shown(2)).collect();
            lines.join("\n")
        };
        expect![[r#"
            RAYON_NUM_THREADS=2 lava bench serve --rate 0.4 --requests 80 --prompt-tokens lognormal:300,2000 --output-tokens 16..64 --ttft-ms 5000 --token-ms 250 --model SmolLM2-135M-Instruct.Q4_1.gguf
            RAYON_NUM_THREADS=2 lava bench serve --requests 100 --speed 0.2 --length-scale 0.03 --ttft-ms 5000 --token-ms 250 --model SmolLM2-135M-Instruct.Q4_1.gguf --trace trace.jsonl"#]]
        .assert_eq(&shown(Part::Serve));
        expect![[r#"
            RAYON_NUM_THREADS=2 lava bench engine --prefill-tokens --batches 1,8 --budgets 1024 --decode-tokens 2000,30000 --rounds 5 --full --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"#]]
        .assert_eq(&shown(Part::Long));
    }
}
