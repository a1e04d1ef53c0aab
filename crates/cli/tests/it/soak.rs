//! A server that is used for a while stays as it was. `cargo xtask soak` does the same for longer, on a real model.

use std::path::Path;
use std::time::Duration;

use lava_test_support::{Architecture, HfDtype, ToyModel};
use serde_json::Value;

use crate::cluster::{Cluster, Process};
use crate::{lava, text};

/// Buffers that few messages fill.
const SETTINGS: [&str; 3] = [
    "decode.output_max=3",
    "limits.answer_messages_max=1",
    "decode.stall_timeout_ms=500",
];
const ROUNDS: usize = 4;
/// Of a round: 45 of all kinds, and five long ones with clients that pause.
const SHORT: &str = "--requests 45 --rate 30 --prompt-tokens 16..200 --output-tokens 2..40 --leave 0.3:40 --slow 0.1:3";
const LONG: &str = "--requests 5 --rate 20 --prompt-tokens 16..64 --output-tokens 500 --slow 0.4:1 --stall 0.6:2000";
const CACHES: &str = "--policy lava-peaks+window=8,lava+window=8,lava-paper+window=8,snapkv+window=8,cake+window=8,full \
    --budget 16,64,1024,75%,200kB --row-format f32,f16,bf16,int8,fp8,int4";

/// Most that what is allocated, without the pools' pages, may grow between the first round and the last, in bytes. A leak
/// of a kilobyte a request is more.
const GROWTH_MAX: f64 = 150e3;

/// Runs a load and gives the document that it wrote.
fn load(address: &str, file: &Path, arguments: &str) -> Value {
    let file = file.to_str().unwrap();
    let mut words = vec!["bench", "serve", "--addr", address, "--json", file];
    words.extend(arguments.split_whitespace());
    let output = lava(&words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn two_hundred_requests_of_all_kinds_leave_nothing_behind_and_memory_flat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy");
    let toy = ToyModel {
        layers: 3,
        context: 1024,
        ..ToyModel::new(Architecture::Llama)
    };
    toy.write_hf(&path, HfDtype::F32, 1).unwrap();
    let mut cluster = Cluster::one_process(&path, &SETTINGS);
    let address = cluster.address.to_string();

    let [mut left, mut stalled] = [0, 0];
    let mut heap = Vec::new();
    for seed in 0..ROUNDS {
        let of = |name: &str, lengths: &str| {
            let arguments = format!("{lengths} {CACHES} --seed {seed}");
            load(&address, &folder.path().join(name), &arguments)
        };
        let documents = std::thread::scope(|scope| {
            let short = scope.spawn(|| of("short.json", SHORT));
            let long = scope.spawn(|| of("long.json", LONG));
            [short, long].map(|load| load.join().unwrap())
        });
        for document in &documents {
            for request in document["requests"].as_array().unwrap() {
                match request["outcome"].as_str() {
                    Some("answered") => (),
                    Some("left") => left += 1,
                    _ => {
                        let message = request["message"].as_str();
                        let is_stalled = |text: &str| text.contains("the client took nothing");
                        assert!(message.is_some_and(is_stalled), "{request}");
                        assert_eq!(request["reader"], "stalls");
                        stalled += 1;
                    }
                }
            }
        }
        cluster.idle();
        heap.push(at_rest(&cluster.processes[0]));
    }
    println!("{left} left, {stalled} stalled; bytes after each round: {heap:?}");
    assert!(left > 0 && stalled > 0, "{left} left, {stalled} stalled");
    assert_eq!(
        cluster.metric("lava_decode_slow_clients_total"),
        f64::from(stalled)
    );
    let growth = heap[ROUNDS - 1] - heap[0];
    assert!(growth < GROWTH_MAX, "{growth} bytes more: {heap:?}");
    assert_eq!(cluster.processes[0].terminate(), Some(0));
}

/// Bytes that are allocated, without the pages that the pools keep, when the connections of a round are forgotten: the least of a second.
fn at_rest(process: &Process) -> f64 {
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let bytes = |name: &str| process.metric(name).expect("the server counts its memory");
        let pages = ["prefill", "decode"].map(|role| format!("lava_{role}_cache_bytes_made"));
        bytes("lava_process_heap_bytes") - pages.iter().map(|name| bytes(name)).sum::<f64>()
    });
    looks.fold(f64::INFINITY, f64::min)
}
