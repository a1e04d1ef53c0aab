//! `lava eval` as a user runs it: what it writes, how it goes on, whom it asks, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lava_test_support::{Architecture, HfDtype, ToyModel};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::{SMOLLM2, lava, model, refused, text};

/// Time for a first answer.
const PATIENCE: Duration = Duration::from_secs(120);

fn novel() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/prompt.txt");
    file.display().to_string()
}

fn smollm2() -> String {
    model(SMOLLM2).display().to_string()
}

/// A folder of a test.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The file's path.
    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Lines of a file of results: the header, then records in the order of their keys.
    fn results(&self, name: &str) -> Vec<Value> {
        let content = self.read(name);
        assert!(content.ends_with('\n'), "{content}");
        let lines = content
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        lines[1..].sort_by_cached_key(|line| {
            let part = |key: &str| line[key].to_string();
            [part("task"), part("sample"), part("policy"), part("budget")]
        });
        lines
    }
}

fn eval(arguments: &[&str]) -> Output {
    lava(&[&["eval"], arguments].concat())
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Equal but for the last digits of numbers: who else is in a batch changes the order of sums.
#[track_caller]
fn same(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            assert!((x - y).abs() <= 1e-4 * x.abs().max(1.0), "{x} and {y}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| same(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{a:?} and {b:?}");
            a.values().zip(b.values()).for_each(|(a, b)| same(a, b));
        }
        _ => assert_eq!(a, b),
    }
}

/// Two questions for two variants.
fn short_run<'a>(model: &'a str, novel: &'a str, out: &'a str) -> Vec<&'a str> {
    vec![
        "eval",
        "lm",
        "needle",
        "--model",
        model,
        "--texts",
        novel,
        "--lengths",
        "200",
        "--continuation",
        "8",
        "--samples",
        "1",
        "--depths",
        "50",
        "--policies",
        "full,streaming-llm",
        "--row-formats",
        "f16",
        "--budgets",
        "48",
        "--out",
        out,
    ]
}

#[test]
fn a_run_writes_its_reports_asks_nothing_twice_and_goes_on_after_a_kill() {
    let place = Place::new();
    let (model, novel, out) = (smollm2(), novel(), place.name("r.jsonl"));
    let reports = ["r.json", "r.md", "r.html"];
    let names = reports.map(|name| place.name(name));
    let files = [
        "--json",
        &names[0],
        "--markdown",
        &names[1],
        "--html",
        &names[2],
    ];
    let run = || lava(&[&short_run(&model, &novel, &out)[..], &files].concat());

    let first = run();
    let table = done(&first);
    for row in ["lm  ", "needle  "] {
        let rows = table.lines().filter(|line| line.starts_with(row));
        assert_eq!(rows.count(), 2, "{table}");
    }
    assert!(
        table.contains("KL (nats)") && table.contains("score (%)"),
        "{table}"
    );
    assert!(
        text(&first.stderr).contains("2/2 needle"),
        "{}",
        text(&first.stderr)
    );

    let summary: Value = serde_json::from_str(&place.read("r.json")).unwrap();
    assert_eq!(summary["facts"]["model"], SMOLLM2);
    let line = |task: &str, policy: &str| {
        let lines = summary["lines"].as_array().unwrap();
        let found = lines
            .iter()
            .find(|l| l["task"] == task && l["policy"] == policy);
        found.unwrap().clone()
    };
    for task in ["lm", "needle"] {
        let full = line(task, "full");
        assert!(full["kl"]["mean"].as_f64().unwrap() < 1e-6, "{full}");
        assert_eq!(full["top1"]["mean"], 1.0, "{full}");
        let evicting = line(task, "streaming-llm");
        assert_eq!(evicting["budget"], "48");
        assert!(
            evicting["kl"]["mean"].as_f64().unwrap() > 1e-3,
            "{evicting}"
        );
        let bytes = |line: &Value| line["cache_bytes"].as_f64().unwrap();
        assert_eq!(bytes(&evicting), 48.0 * 30.0 * 3.0 * 2.0 * 64.0 * 2.0);
        assert!(bytes(&full) > 3.0 * bytes(&evicting));
    }
    // A needle before the window is what a policy of recent tokens loses.
    assert_eq!(line("needle", "full")["score"]["mean"], 1.0);
    assert_eq!(line("needle", "streaming-llm")["score"]["mean"], 0.0);
    assert_eq!(
        line("needle", "streaming-llm")["against_baseline"]["less"],
        1
    );

    let markdown = place.read("r.md");
    for title in ["**lm: KL", "**needle: score"] {
        assert!(markdown.contains(title), "{markdown}");
    }
    let rows = |policy: &str| markdown.matches(&format!("| `{policy}` |")).count();
    assert!(
        rows("full") > 2 && rows("full") == rows("streaming-llm"),
        "{markdown}"
    );
    let page = place.read("r.html");
    // The name of a language, which nobody fetches.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("<svg") && page.contains("streaming-llm"));
    for reference in [
        "http:", "https:", "src=", "href=", "<script", "<link", "@import", "url(",
    ] {
        assert!(!page.contains(reference), "the page has {reference}");
    }

    let written = |name: &str| fs::read(place.path(name)).unwrap();
    let all = ["r.jsonl", "r.json", "r.md", "r.html"];
    let before = all.map(written);
    let second = run();
    assert_eq!(done(&second), table);
    let said = text(&second.stderr);
    assert!(
        said.contains("4 answers already") && !said.contains("2/2"),
        "{said}"
    );
    assert!(
        all.map(written) == before,
        "nothing was asked, and nothing changed"
    );

    let other = lava(&[&short_run(&model, &novel, &out)[..], &["--seed", "2"]].concat());
    refused(
        &other,
        &[
            "r.jsonl belongs to another run",
            "seed is \"1\", expected \"2\"",
        ],
    );

    let killed = killed_and_cut(
        &place,
        &short_run(&model, &novel, &place.name("killed.jsonl")),
    );
    let third = lava(&short_run(&model, &novel, &killed));
    done(&third);
    let said = text(&third.stderr);
    assert!(said.contains("2/2 needle"), "{said}");
    same(
        &Value::Array(place.results("killed.jsonl")),
        &Value::Array(place.results("r.jsonl")),
    );
}

/// Starts a run, kills it when it has written a record, and cuts the last line of its file in the
/// middle, as a power cut does.
fn killed_and_cut(place: &Place, arguments: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lava"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let file = place.path("killed.jsonl");
    let written = || fs::read(&file).unwrap_or_default();
    let lines = || written().iter().filter(|&&byte| byte == b'\n').count();
    let began = Instant::now();
    // The header and a first record.
    while lines() < 2 {
        assert!(began.elapsed() < PATIENCE, "no answer");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = written();
    fs::write(&file, &left[..left.len() - 9]).unwrap();
    file.display().to_string()
}

/// A file of InfiniteBench, whose prompts have no beginning of an answer.
fn numbers(place: &Place) -> String {
    let story = "The grass is green. The sky is blue. The sun is yellow. Here we go. ".repeat(3);
    let line = serde_json::json!({
        "id": 1,
        "context": format!("{story}The pass key is 71432. {story}"),
        "input": "What is the pass key?",
        "answer": 71_432,
    });
    place.write("number_string.jsonl", &format!("{line}\n"))
}

#[test]
fn a_served_model_gives_the_answers_of_one_in_this_process() {
    let place = Place::new();
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"small\""]);
    let (address, data) = (cluster.address.to_string(), numbers(&place));
    let (here, there) = (place.name("here.jsonl"), place.name("there.jsonl"));
    let smollm2 = smollm2();
    let asked = [
        "--data",
        &data,
        "--policies",
        "full,snapkv",
        "--budgets",
        "64",
    ];
    // As workers hold weights.
    let local = ["--model", &smollm2, "--weights", "stored", "--out", &here];
    done(&eval(&[&asked[..], &local].concat()));
    let served = ["--addr", &address, "--out", &there];
    let table = done(&eval(&[&asked[..], &served].concat()));
    assert!(
        table.contains("number_string") && table.contains("minus full"),
        "{table}"
    );

    let (here, there) = (place.results("here.jsonl"), place.results("there.jsonl"));
    assert_eq!((here.len(), there.len()), (3, 3));
    assert_eq!(there[0]["model"], "small");
    assert_eq!(there[0]["settings"]["from"], "a server");
    for (ours, theirs) in here[1..].iter().zip(&there[1..]) {
        for field in [
            "sample",
            "policy",
            "budget",
            "output",
            "score",
            "prompt_tokens",
            "cache_bytes",
            "length",
        ] {
            assert_eq!(ours[field], theirs[field], "{field}: {ours} {theirs}");
        }
        assert!(theirs["seconds"].as_f64().unwrap() > 0.0);
        assert!(ours["nll"].is_number() && theirs["nll"].is_null());
    }
    let full = here[1..]
        .iter()
        .filter(|record| record["policy"] == "full in int4");
    assert!(
        full.clone().all(|record| record["score"] == 1.0),
        "{:?}",
        full.collect::<Vec<_>>()
    );

    let long = [
        "kv",
        "--addr",
        &address,
        "--lengths",
        "8150",
        "--out",
        &place.name("long.jsonl"),
    ];
    refused(
        &eval(&long),
        &[
            "kv of length 8150 takes 8215 tokens",
            "the model's context is 8192: ask for at most 8127",
        ],
    );
    cluster.idle();
}

/// Refused before any model is looked for, with status 1.
#[track_caller]
fn early(arguments: &[&str], expected: &[&str]) {
    let output = eval(&[&["--model", "nothing"], arguments].concat());
    refused(&output, expected);
    assert!(
        !text(&output.stderr).contains("no model at"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_cannot_be_asked_is_refused_before_the_model_is_read() {
    let place = Place::new();
    let novel = novel();
    let with_text = |arguments: &[&'static str]| -> Vec<String> {
        let all = [arguments, &["--texts"]].concat();
        all.into_iter()
            .map(str::to_owned)
            .chain([novel.clone()])
            .collect()
    };
    let early_with_text = |arguments: &[&'static str], expected: &[&str]| {
        let all = with_text(arguments);
        early(
            &all.iter().map(String::as_str).collect::<Vec<_>>(),
            expected,
        );
    };
    early(
        &["needel"],
        &["unknown task \"needel\"", "known are lm, needle"],
    );
    early(&[], &["nothing is asked", "--data"]);
    early(&["lm"], &["lm needs a text", "--texts"]);
    early_with_text(
        &["lm", "--policies", "lawa"],
        &["lawa", "lava-exact", "snapkv"],
    );
    early_with_text(
        &["lm", "--budgets", "64,32"],
        &["budget is 32", "window's 32"],
    );

    let unknown = place.write("hotpot.jsonl", "");
    early(
        &["--data", &unknown],
        &["hotpot.jsonl", "no data set", "hotpotqa", "passkey"],
    );
    let missing = place.name("qasper.jsonl");
    early(&["--data", &missing], &["qasper.jsonl", "cannot be read"]);
    let good = fs::read_to_string(numbers(&place)).unwrap();
    let broken = format!("{good}{{\"id\": 2, \"context\"");
    let broken = place.write("broken/number_string.jsonl", &broken);
    early(
        &["--data", &broken],
        &[
            "number_string.jsonl:2: ",
            "expected an InfiniteBench sample",
        ],
    );
    let other = place.write("other/number_string.jsonl", &good);
    let both = format!("{},{other}", place.name("number_string.jsonl"));
    early(
        &["--data", &both],
        &["two files called number_string.jsonl"],
    );

    let empty = place.write("empty.txt", " \n");
    early(&["lm", "--texts", &empty], &["empty.txt is empty"]);
    early(
        &["lm", "--texts", &place.name("none.txt")],
        &["cannot read the text", "none.txt"],
    );
    let folder = place.name("other");
    early(&["lm", "--texts", &folder], &["other has no .txt files"]);
    let twice = format!(
        "{},{}",
        place.write("a/t.txt", "One."),
        place.write("b/t.txt", "Two.")
    );
    early(
        &["lm", "--texts", &twice],
        &["two texts are called \"t\"", "rename"],
    );

    let out = place.name("out.jsonl");
    let html = place.name("no/such/folder.html");
    early(
        &["kv", "--out", &out, "--html", &html],
        &["--html", "folder.html", "No such file"],
    );
    early(
        &["kv", "--out", &out, "--json", &out],
        &["--out and --json are both", "out.jsonl"],
    );
    early(&["kv", "--out", &folder], &["--out: cannot write", "other"]);
    assert!(!place.path("no").exists());

    let served = eval(&["lm", "--addr", "127.0.0.1:1", "--texts", &novel]);
    refused(
        &served,
        &["lm compares likelihoods", "run it without --addr"],
    );
    refused(
        &eval(&["kv", "--model", "nothing", "--baseline", "ful"]),
        &["--baseline", "ful", "lava-exact"],
    );
    refused(
        &eval(&["kv", "--model", "nothing", "--samples", "0"]),
        &["--samples", "0"],
    );
    refused(
        &eval(&["kv", "--model", "nothing", "--depths", "101"]),
        &["--depths", "101", "100"],
    );
    let nothing = eval(&["kv", "--model", "nothing", "--out", &out]);
    refused(&nothing, &["no model at \"nothing\""]);
}

#[test]
fn lengths_that_a_text_a_task_or_the_model_has_no_room_for_are_refused() {
    let place = Place::new();
    let toy = place.path("toy");
    let of_family = ToyModel::new(Architecture::Llama);
    of_family.write_hf(&toy, HfDtype::F32, 1).unwrap();
    let (toy, novel, out) = (toy.display().to_string(), novel(), place.name("r.jsonl"));
    let short = place.write("short.txt", "Once upon a time.");
    let run = |task: &str, text: &str, length: &str| {
        let arguments = [task, "--texts", text, "--lengths", length, "--out", &out];
        eval(&[&arguments[..], &["--model", &toy]].concat())
    };
    refused(
        &run("lm", &novel, "100,500"),
        &[
            "lm of length 500 takes 565 tokens",
            "context is 512: ask for at most 447",
        ],
    );
    refused(
        &run("needle", &novel, "600"),
        &[
            "needle of length 600",
            "context is 512: ask for at most 447",
        ],
    );
    refused(
        &run("lm", &short, "100"),
        &["the text \"short\" has", "expected 165 at least"],
    );
    refused(
        &run("ruler", &novel, "60"),
        &["niah_single_1 of length 60", "60 were asked for"],
    );
    // Nothing was asked of anybody.
    assert_eq!(place.read("r.jsonl"), "");
}

#[test]
fn values_that_are_given_twice_are_asked_once() {
    let place = Place::new();
    let toy = place.path("toy");
    let of_family = ToyModel::new(Architecture::Llama);
    of_family.write_hf(&toy, HfDtype::F32, 1).unwrap();
    let (toy, text, out) = (toy.display().to_string(), novel(), place.name("r.jsonl"));
    let texts = format!("{text},{text}");
    let arguments = [
        "lm",
        "lm",
        "--texts",
        &texts,
        "--lengths",
        "100,100",
        "--continuation",
        "4",
        "--samples",
        "2",
        "--policies",
        "lava,lava-exact,full,full",
        "--row-formats",
        "f16,f16",
        "--budgets",
        "48,48",
        "--baseline",
        "lava",
    ];
    let table = done(&eval(
        &[&arguments[..], &["--model", &toy, "--out", &out]].concat(),
    ));
    assert_eq!(table.lines().count(), 2 + 2, "{table}");
    assert_eq!(place.results("r.jsonl").len(), 1 + 2 * 2);
}
