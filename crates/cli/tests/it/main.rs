//! The `lava` binary as a user runs it.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod alike;
mod asking;
mod bad_input;
mod bench;
mod bench_serve;
mod both_roles;
mod budgets;
mod clients;
mod cluster;
mod coordinators;
mod eval;
mod fleet;
mod full_disk;
mod hand_off;
mod lanes;
mod load;
mod pairing;
mod policies;
mod promises;
mod simulated;
mod soak;
mod tenants;
mod transfer;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn model(file: &str) -> PathBuf {
    let folder = std::env::var_os("LAVA_MODELS")
        .expect("LAVA_MODELS is not set: run `cargo xtask test`, which fetches the models");
    PathBuf::from(folder).join(file)
}

fn lava(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lava"));
    command.args(arguments).output().expect("the binary starts")
}

fn generate(arguments: &[&str]) -> Output {
    let model = model(SMOLLM2);
    let model = model.to_str().unwrap();
    lava(&[&["generate", "--model", model], arguments].concat())
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = generate(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command fails, without a panic, and says each of `expected`.
#[track_caller]
fn refused(output: &Output, expected: &[&str]) {
    let message = text(&output.stderr);
    assert!(!output.status.success());
    assert!(!message.contains("panicked"), "{message}");
    for part in expected {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn the_golden_file_passes() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2.json");
    let output = lava(&[
        "golden",
        golden.to_str().unwrap(),
        "--model",
        model(SMOLLM2).to_str().unwrap(),
    ]);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}{}", text(&output.stderr));
    assert!(
        table.ends_with("passed\n") && table.lines().count() == 13,
        "{table}"
    );
}

#[test]
fn a_golden_file_with_another_value_fails() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2.json");
    let document = std::fs::read_to_string(golden).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&document).unwrap();
    // One prompt and eviction are enough, with one entropy moved past its tolerance.
    let mut prompt = document["prompts"][0].clone();
    prompt["configs"] = serde_json::json!([prompt["configs"][0]]);
    let entropy = prompt["entropy"][3].as_f64().unwrap();
    prompt["entropy"][3] = (entropy + 2e-5).into();
    document["prompts"] = serde_json::json!([prompt]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("golden.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let output = lava(&[
        "golden",
        file.to_str().unwrap(),
        "--model",
        model(SMOLLM2).to_str().unwrap(),
    ]);
    assert!(!output.status.success());
    assert!(
        text(&output.stdout).contains("e-5!"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn the_demo_prompt_is_compressed_to_its_budget() {
    let prompt = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/prompt.txt");
    let run = json(&[
        "--prompt-file",
        prompt.to_str().unwrap(),
        "--budget",
        "128",
        "--max-tokens",
        "8",
    ]);
    let number = |key: &str| run[key].as_u64().unwrap();
    assert!(number("prompt_tokens") >= 2000);
    assert!(number("rows_kept") <= 30 * 3 * 128);
    assert!(
        number("rows_kept") > 30 * 3 * 128 - 30,
        "LAVa leaves less than an entry per layer"
    );
    // Of each head: a mean key, 32 rows of the window in half precision, the others in int4 with scales.
    let (heads, window) = (30 * 3, 30 * 3 * 32);
    let packed = (number("rows_kept") - window) * 2 * (64 / 2 + 2);
    assert_eq!(
        number("kept_bytes"),
        heads * 64 * 2 + window * 2 * 64 * 2 + packed
    );
    assert_eq!(
        number("full_cache_bytes"),
        number("prompt_tokens") * 30 * 3 * 2 * 64 * 2
    );
    assert!(!run["text"].as_str().unwrap().is_empty());
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_seed_another() {
    let run = |seed| {
        json(&[
            "--prompt",
            "Tell me a story.",
            "--temperature",
            "1.5",
            "--max-tokens",
            "12",
            "--seed",
            seed,
        ])
    };
    assert_eq!(run("1")["text"], run("1")["text"]);
    assert_ne!(run("1")["text"], run("2")["text"]);
}

#[test]
fn nothing_of_a_stop_string_is_shown() {
    let question = [
        "--prompt",
        "Count from one to ten in digits.",
        "--max-tokens",
        "24",
    ];
    let free = json(&question)["text"].as_str().unwrap().to_owned();
    let stop: String = free.chars().skip(5).take(4).collect();
    let stopped = json(&[&question[..], &["--stop", &stop]].concat());
    assert_eq!(stopped["finish_reason"], "stop string");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &free[..free.find(&stop).unwrap()]
    );
}

#[test]
fn logprobs_are_reported_best_first() {
    let run = json(&["--prompt", "Hi", "--max-tokens", "3", "--logprobs", "4"]);
    for token in run["tokens"].as_array().unwrap() {
        let top = token["top"].as_array().unwrap();
        assert_eq!(top.len(), 4);
        assert_eq!(top[0][0], token["id"], "greedy takes the likeliest");
        assert!(
            top.windows(2)
                .all(|pair| pair[0][1].as_f64() >= pair[1][1].as_f64())
        );
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let long = "word ".repeat(9000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.txt");
    std::fs::write(&file, long).unwrap();
    let file = file.to_str().unwrap();
    refused(&generate(&["--prompt", "  "]), &["the prompt is empty"]);
    refused(
        &generate(&["--prompt-file", "no-such-file"]),
        &["no-such-file"],
    );
    refused(
        &generate(&["--prompt-file", file, "--raw"]),
        &["context is 8192"],
    );
    let story = "Once upon a time there was a queen. ".repeat(10);
    refused(
        &generate(&["--prompt", &story, "--budget", "32"]),
        &["budget is 32", "window's 32"],
    );
    refused(
        &generate(&["--prompt", "x", "--temperature", "NaN"]),
        &["temperature is NaN", "0 (greedy) to 100"],
    );
    refused(
        &generate(&["--prompt", "x", "--top-p", "2"]),
        &["top_p is 2"],
    );
    refused(
        &generate(&["--prompt", "x", "--policy", "magic"]),
        &["magic", "lava-exact", "full"],
    );
    refused(
        &generate(&["--prompt", "x", "--stop", ""]),
        &["stop string 0 has 0 bytes"],
    );
    refused(
        &generate(&["--prompt", "x", "--max-tokens", "0"]),
        &["max-tokens"],
    );
    refused(
        &lava(&["generate", "--model", "nothing", "--prompt", "x"]),
        &["no model at \"nothing\""],
    );
    refused(
        &lava(&["golden", file, "--model", "nothing"]),
        &["is not a golden file"],
    );
}

#[test]
fn a_damaged_model_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.gguf");
    std::fs::copy(model(SMOLLM2), &file).unwrap();
    let handle = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    let len = handle.metadata().unwrap().len();
    // Shorter and shorter: one copy serves every cut.
    for i in (0..64).rev() {
        handle.set_len(len * i / 64).unwrap();
        let output = lava(&[
            "generate",
            "--model",
            file.to_str().unwrap(),
            "--prompt",
            "x",
        ]);
        refused(&output, &["cut.gguf"]);
    }
}
