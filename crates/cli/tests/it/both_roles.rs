//! `lava worker`: both roles in one process, where short prompts stay; and the bench that says which are short.

use std::path::Path;
use std::time::{Duration, Instant};

use lava_test_support::{Architecture, HfDtype, ToyModel};

use crate::cluster::{Process, free_address, push_settings};
use crate::{lava, refused, text};

/// Starts a worker with a port for each of `ports`, and waits until it is ready.
fn worker(folder: &Path, name: &str, model: &str, ports: &[&str]) -> (Process, Vec<String>) {
    let mut arguments = vec![name.to_owned()];
    push_settings(&mut arguments, &[&format!("model.path={model:?}")]);
    let mut addresses = Vec::new();
    for key in ports {
        let address = free_address();
        let value = match key.ends_with("port") {
            true => address.port().to_string(),
            false => format!("\"{address}\""),
        };
        push_settings(&mut arguments, &[&format!("listen.{key}={value}")]);
        addresses.push(address.to_string());
    }
    let mut process = Process::start_small(folder, name, &arguments);
    process.ready();
    (process, addresses)
}

#[test]
fn short_prompts_stay_in_the_process_with_both_roles() {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let model = folder.path().to_str().unwrap();
    let ports = ["prefill_port", "decode_port"];
    let (mut both, at) = worker(folder.path(), "worker", model, &ports);
    // At another host, as far as a name can tell.
    let (elsewhere, apart) = worker(folder.path(), "prefill", model, &["address"]);
    let apart = apart[0].replace("127.0.0.1", "localhost");

    let address = free_address();
    let mut arguments = vec!["coordinator".to_owned()];
    let workers = format!("workers.addresses={:?}", [&at[0], &at[1], &apart]);
    let listen = format!("listen.address=\"{address}\"");
    let settings = [
        &listen,
        &workers,
        "placement.together_tokens_max=40",
        "placement.prefill=\"round_robin\"",
        "workers.probe_interval_ms=100",
    ];
    push_settings(&mut arguments, &settings);
    let mut coordinator = Process::start(folder.path(), "coordinator", &arguments);
    coordinator.ready();
    let began = Instant::now();
    while coordinator.metric("lava_coordinator_workers_ready{role=\"prefill\"}") != Some(2.0) {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "not both are seen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let ask = |words: usize| {
        let prompt = "a ".repeat(words);
        let addr = address.to_string();
        let arguments = ["generate", "--addr", &addr, "--raw", "--prompt", &prompt];
        let output = lava(&[&arguments[..], &["--max-tokens", "4"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let done = |process: &Process| process.metric("lava_prefill_completed_total").unwrap();
    (0..4).for_each(|_| ask(8));
    assert_eq!((done(&both), done(&elsewhere)), (4.0, 0.0));
    (0..4).for_each(|_| ask(60));
    assert_eq!((done(&both), done(&elsewhere)), (6.0, 2.0));
    assert_eq!(both.metric("lava_decode_completed_total"), Some(8.0));

    let json = folder.path().join("together.json");
    let bench = |more: &[&str]| {
        let workers = ["--decode", &at[1], "--beside", &at[0], "--apart", &apart];
        let sizes = "bench together --prompt-tokens 16,48 --requests 2 --streams 2";
        let sizes: Vec<&str> = sizes.split(' ').collect();
        lava(&[&sizes[..], &workers, more].concat())
    };
    let output = bench(&["--json", json.to_str().unwrap()]);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}{}", text(&output.stderr));
    let found: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let threshold = found["together_tokens_max"].as_u64().unwrap();
    let last = format!("placement.together_tokens_max = {threshold}");
    assert_eq!(table.lines().last(), Some(last.as_str()), "{table}");
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!([0, 16, 48].contains(&threshold));
    for row in found["rows"].as_array().unwrap() {
        for way in ["beside", "apart"] {
            assert!(
                row[way]["whole"].as_f64() > row[way]["first"].as_f64(),
                "{row}"
            );
        }
    }
    refused(
        &bench(&["--output-tokens", "100000"]),
        &["100048 tokens", "the model's context"],
    );

    // A drain of either role ends the process, which answers what it has.
    let drained = lava(&["drain", "--addr", &at[0]]);
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    assert_eq!(both.exit_code(), Some(0));
}
