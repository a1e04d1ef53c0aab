//! `lava bench serve` as a user runs it, on a toy model.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lava_test_support::{Architecture, HfDtype, ToyModel};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::{lava, refused, text};

/// Time for a load to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a toy model, whose context is 512 tokens.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let toy = ToyModel::new(Architecture::Llama);
        toy.write_hf(&place.path("toy"), HfDtype::F32, 1).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.name(name)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    fn cluster(&self, settings: &[&str]) -> Cluster {
        Cluster::one_process(&self.path("toy"), settings)
    }
}

/// Arguments in one line, then some that may have blanks.
fn serve(line: &str, more: &[&str]) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    lava(&[&["bench", "serve"], &words[..], more].concat())
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_server_in_this_process_answers_a_poisson_load() {
    let place = Place::new();
    let files = [
        "--model",
        &place.name("toy"),
        "--json",
        &place.name("load.json"),
        "--plot",
        &place.name("load.svg"),
    ];
    let load = "--rate 50 --requests 20 --prompt-tokens 60..120 --output-tokens 4 --budget 48 --row-format int4";
    let limits = "--ttft-ms 60000 --token-ms 60000";
    let table = done(&serve(&format!("{load} {limits}"), &files));
    for line in [
        "20 due, 20 answered\n",
        "100.0 % (20) of those due kept first token within 60000 ms",
        "prompts of 60..120 tokens, answers of 4, seed 1",
    ] {
        assert!(table.contains(line), "{line:?} is not in {table}");
    }

    let found = place.json("load.json");
    let summary = &found["summary"];
    for (key, expected) in [
        ("due", 20),
        ("answered", 20),
        ("not_sent", 0),
        ("output_tokens", 80),
        ("short_answers", 0),
        ("recomputes", 0),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
    for (key, count) in [("first_token_ms", 20), ("gap_ms", 60), ("per_token_ms", 20)] {
        assert_eq!(summary[key]["count"], count, "{key}");
        assert!(summary[key]["p50"].as_f64() <= summary[key]["max"].as_f64());
    }
    assert!(summary["requests_per_second"].as_f64().unwrap() > 0.0);
    let (shipped, full) = (&summary["shipped_bytes"], &summary["full_bytes"]);
    assert!(shipped.as_u64() > Some(0) && shipped.as_u64() < full.as_u64());
    assert_eq!(summary["goodput"]["share"], 1.0);
    assert_eq!(found["settings"]["planned"], 20);
    assert_eq!(found["settings"]["budget"], "48");
    assert_eq!(found["settings"]["context_tokens"], 512);

    let requests = found["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 20);
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(request["index"], index);
        assert_eq!(request["outcome"], "answered");
        assert_eq!(
            (&request["budget"], &request["row_format"]),
            (&48.into(), &"int4".into())
        );
        assert_eq!(request["gaps_ms"].as_array().unwrap().len(), 3);
        assert!((60..=120).contains(&request["prompt_tokens"].as_u64().unwrap()));
        assert!(request["took_ms"].as_f64() >= request["first_token_ms"].as_f64());
    }
    let svg = fs::read_to_string(place.path("load.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == 20);
}

/// Four requests at once: three of 1200, 600 and 700 tokens, and one that no toy has room for.
fn mooncake() -> String {
    let row = |tokens: usize| {
        let ids: Vec<usize> = (0..tokens.div_ceil(512)).collect();
        format!(
            "{{\"timestamp\": 3000, \"input_length\": {tokens}, \"output_length\": 900, \"hash_ids\": {ids:?}}}\n"
        )
    };
    [1200, 600, 700, 9000].map(row).concat()
}

#[test]
fn a_trace_is_scaled_and_cut_and_what_a_server_or_a_bound_refuses_is_counted() {
    let place = Place::new();
    let trace = place.write("trace.jsonl", &mooncake());
    let json = place.name("load.json");
    let one_flight = [
        "limits.flights_max=1",
        "limits.choices_max=1",
        "admission.waiting_max=0",
    ];
    let cluster = place.cluster(&[&["model.name=\"toy\""], &one_flight[..]].concat());
    let address = cluster.address.to_string();
    let files = ["--addr", &address, "--trace", &trace, "--json", &json];

    let table = done(&serve("--length-scale 0.1 --speed 2 --budget 48", &files));
    assert!(table.contains("model             toy\n"), "{table}");
    assert!(
        table.contains("cut               1 prompts by 478 tokens, 0 answers by 0"),
        "{table}"
    );
    assert!(
        table.contains("with ResourceExhausted, the first: "),
        "{table}"
    );
    let found = place.json("load.json");
    let count = |key: &str| found["summary"][key].as_u64().unwrap();
    assert!(count("answered") >= 1 && count("refused") >= 1, "{table}");
    assert_eq!(count("answered") + count("refused"), 4, "{table}");
    let of = |key: &str| -> Vec<u64> {
        let requests = found["requests"].as_array().unwrap().iter();
        requests.map(|one| one[key].as_u64().unwrap()).collect()
    };
    assert_eq!(of("prompt_tokens"), [120, 60, 70, 422]);
    assert_eq!(of("output_tokens_asked"), [90; 4]);

    let bounded = "--length-scale 0.1 --in-flight-max 1 --requests 3 --budget 48";
    let table = done(&serve(bounded, &files));
    assert!(table.contains("3 due, 1 answered, 2 not sent"), "{table}");
    cluster.idle();
}

#[test]
fn an_interrupted_load_tells_what_ended_and_leaves_nothing_behind() {
    let place = Place::new();
    let cluster = place.cluster(&["model.name=\"toy\""]);
    let (address, json) = (cluster.address.to_string(), place.name("load.json"));
    let arguments = "bench serve --rate 20 --requests 1000 --prompt-tokens 60 --output-tokens 400";
    let child = Command::new(env!("CARGO_BIN_EXE_lava"))
        .args(arguments.split(' '))
        .args(["--addr", &address, "--json", &json])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while cluster.metric("lava_decode_slots") == 0.0 {
        assert!(began.elapsed() < PATIENCE, "the load never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    refused(
        &output,
        &["stopped by a signal", "of 1000 requests answered"],
    );
    assert!(
        text(&output.stdout).contains("outcome"),
        "{}",
        text(&output.stdout)
    );
    let due = place.json("load.json")["summary"]["due"].as_u64().unwrap();
    assert!((1..1000).contains(&due), "{due}");
    cluster.idle();
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_can() {
    let place = Place::new();
    let check = |line: &str, expected: &[&str]| refused(&serve(line, &[]), expected);
    check("--model x", &["--rate", "--trace"]);
    check("--rate 1", &["--model"]);
    check("--model x --rate 0", &["--rate", "expected a number from"]);
    check("--model x --rate 1 --speed 2", &["--rate", "--speed"]);
    check(
        "--model x --rate 1 --prompt-tokens 9..3",
        &["9..3", "100..4000", "lognormal:MEDIAN,P99"],
    );
    check("--model x --rate 1 --policy lawa", &["lawa", "lava-peaks"]);
    check("--addr h:1 --rate 1 --set a=1", &["--addr", "--set"]);
    check("--model x --trace t.txt", &["t.txt", ".jsonl", ".csv"]);
    check("--model x --trace none.csv", &["none.csv: cannot be read"]);
    check("--model x --rate 1 --trace t.csv", &["--rate", "--trace"]);

    let broken = format!("{}{{\"timestamp\": 1}}\n", mooncake());
    let broken = place.write("broken.jsonl", &broken);
    let message = [
        "broken.jsonl:5: ",
        "input_length",
        "expected a request of Mooncake",
    ];
    check(&format!("--model x --trace {broken}"), &message);
    let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.97,48O8,10\r\n";
    let csv = place.write("broken.csv", csv);
    let message = ["broken.csv:2: ContextTokens is \"48O8\", expected a number"];
    check(&format!("--model x --trace {csv}"), &message);

    let nowhere = place.name("no/such/folder.json");
    check(
        &format!("--model x --rate 1 --json {nowhere}"),
        &["--json: cannot write", "folder.json"],
    );
    check("--model nothing --rate 1", &["no model at \"nothing\""]);
    check(
        "--addr 127.0.0.1:1 --rate 1",
        &["cannot reach a coordinator at 127.0.0.1:1"],
    );

    let toy = place.name("toy");
    let output = serve(
        &format!("--model {toy} --rate 100 --requests 2 --budget 8"),
        &[],
    );
    refused(&output, &["none of 2 requests was answered"]);
    let table = text(&output.stdout);
    assert!(
        table.contains("2 with InvalidArgument, the first: budget"),
        "{table}"
    );
}
