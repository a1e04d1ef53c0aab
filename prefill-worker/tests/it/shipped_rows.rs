//! What arrives is what the engine keeps: positions, keys and values, bit for bit.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lava::Method;
use lava_engine::{PrefillRequest, RowFormat};
use lava_node::Health;
use lava_prefill_worker::PrefillSection;
use lava_proto::v1::TransferStats;
use lava_proto::worker::prefill_client::PrefillClient;
use lava_test_support::{Architecture, FabricFaults, FakeFabric, Fault, Switch, ToyModel};
use lava_transfer::{LaneCounts, Lanes};
use lava_worker::{LanePlan, Loaded};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::receiver::{Received, Table, start_over};
use crate::worker::{load, load_on_gpu, load_toy, request, run, start_watched, start_with};

fn prompt(len: u32, vocabulary: u32) -> Vec<u32> {
    (0..len)
        .map(|i| (i * i * 31 + i * 17 + 3) % vocabulary)
        .collect()
}

/// The engine's own result in this process.
fn expected(
    loaded: &Loaded,
    prompt: &[u32],
    method: Method,
    budget: usize,
    format: RowFormat,
) -> Vec<Table> {
    let asked = PrefillRequest {
        tokens: prompt,
        method,
        budget,
        format,
        appended_max: 0,
    };
    let page_bytes = loaded.model.config().page_bytes();
    let pages = asked.pages_max(&loaded.model, page_bytes);
    let pool = loaded.model.pool(pages).unwrap();
    let done = loaded
        .model
        .prefill(&asked, &pool, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let window = done.cascade.window_rows();
    let config = loaded.model.config();
    let mut tables = Vec::new();
    for layer in 0..config.layers {
        let mut means = Vec::new();
        let rows = |head: usize| 0..done.cache.table(layer, head).rows();
        let of_layer =
            (0..config.kv_heads).map(|head| (layer * config.kv_heads + head, rows(head)));
        let reader = done.cache.reader(layer, of_layer).unwrap();
        if format.is_packed() {
            reader.copy_means(layer, &mut means);
        }
        for head in 0..config.kv_heads {
            let row = |row: usize| {
                let mut bytes = Vec::new();
                let table = layer * config.kv_heads + head;
                reader.copy_rows(table, row..row + 1, &mut bytes);
                bytes
            };
            let in_window = (prompt.len() - window) as u32..prompt.len() as u32;
            let others = done.cascade.head_order(layer, head).iter().copied();
            tables.push(Table {
                positions: in_window.chain(others).collect(),
                rows: rows(head).map(row).collect(),
                mean: match format.is_packed() {
                    true => means[head * 2 * config.head_dim..][..2 * config.head_dim].to_vec(),
                    false => Vec::new(),
                },
            });
        }
    }
    tables
}

async fn shipped(
    client: &mut PrefillClient<Channel>,
    loaded: &Loaded,
    prompt: &[u32],
    policy: &str,
    budget: u32,
    format: RowFormat,
) -> (Received, TransferStats) {
    let (address, received) = crate::receiver::start().await;
    let mut asked = request(loaded, prompt, policy, budget, address.to_string());
    asked.attempt.as_mut().unwrap().row_format = format.to_string();
    let (first, done) = run(client, asked).await.unwrap();
    let received = received.await.unwrap();
    assert_eq!(received.first_token, first.token.unwrap().id);
    let stats = done.stats.unwrap();
    let rows: usize = received
        .tables
        .iter()
        .map(|table| table.positions.len())
        .sum();
    assert_eq!(stats.rows_kept, rows as u64);
    let lens = received.tables.iter().map(|table| table.rows.len());
    assert_eq!(
        stats.row_bytes,
        received.header.shape.element_bytes(lens) as u64
    );
    (received, stats)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_models_kept_positions_at_128_are_the_engines_own() {
    let folder = std::env::var_os("LAVA_MODELS")
        .expect("LAVA_MODELS is not set: run `cargo xtask test`, which fetches the models");
    let model = PathBuf::from(folder).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let loaded = load(&model);
    let mut client = crate::worker::start(loaded.clone()).await;
    let prompt = prompt(700, 49_152);
    let policy = "lava".parse().unwrap();
    let format = RowFormat::Int4;
    let (received, _) = shipped(&mut client, &loaded, &prompt, "lava", 128, format).await;
    let rows: usize = received
        .tables
        .iter()
        .map(|table| table.positions.len())
        .sum();
    assert!(rows <= 30 * 3 * 128 && rows > 30 * 3 * 128 - 30, "{rows}");
    assert_eq!(received.frames, 30, "one frame per layer");
    assert!(received.tables == expected(&loaded, &prompt, policy, 128, format));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_budget_and_format_ships_the_engines_rows() {
    let toy = ToyModel::new(Architecture::Qwen3);
    let loaded = load_toy(&toy);
    let mut client = crate::worker::start(loaded.clone()).await;
    for format in RowFormat::ALL {
        for (policy, budget) in [
            ("lava", 48),
            ("lava+sinks=3", 48),
            ("lava-paper", 40),
            ("lava-code", 64),
            ("full", 1),
            ("lava", 500),
        ] {
            for len in [20, 130, 203] {
                let prompt = prompt(len, toy.vocab as u32);
                let (received, _) =
                    shipped(&mut client, &loaded, &prompt, policy, budget, format).await;
                let method = policy.parse().unwrap();
                let expected = expected(&loaded, &prompt, method, budget as usize, format);
                assert!(
                    received.tables == expected,
                    "{format} {policy} {budget} {len}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpus_rows_are_shipped_and_a_gpu_that_breaks_down_takes_its_worker_with_it() {
    let toy = ToyModel {
        head_dim: 64,
        hidden: 256,
        ..ToyModel::new(Architecture::Llama)
    };
    let (loaded, gpu) = load_on_gpu(&toy);
    let health = Health::new();
    let section = PrefillSection {
        // What is watched costs many times its size.
        cache_bytes: 1 << 22,
        ..PrefillSection::default()
    };
    let (mut client, serving) = start_watched(section, loaded.clone(), None, health.clone()).await;
    let prompt = prompt(130, toy.vocab as u32);
    for format in [RowFormat::Int4, RowFormat::F16] {
        let (received, _) = shipped(&mut client, &loaded, &prompt, "lava", 48, format).await;
        let expected = expected(&loaded, &prompt, "lava".parse().unwrap(), 48, format);
        assert!(received.tables == expected, "{format}");
    }
    // A prompt for which there is no memory is refused, and the worker goes on.
    gpu.leave_room_for(1 << 18);
    let (address, _received) = crate::receiver::start().await;
    let asked = request(&loaded, &prompt, "lava", 48, address.to_string());
    let refused = run(&mut client, asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    gpu.leave_room_for(1 << 26);
    let (received, _) = shipped(&mut client, &loaded, &prompt, "lava", 48, RowFormat::F16).await;
    assert!(received.frames > 0);
    gpu.break_down();
    let (address, _received) = crate::receiver::start().await;
    let asked = request(&loaded, &prompt, "lava", 48, address.to_string());
    let refused = run(&mut client, asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().starts_with("the GPU failed: "),
        "{refused}"
    );
    let reason = timeout(Duration::from_secs(20), health.failure()).await;
    assert_eq!(reason.unwrap(), "prefill engine failed");
    // Only a restart helps, and somebody has to be told.
    let ended = timeout(Duration::from_secs(20), serving).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "the prefill worker failed: prefill engine failed; the log says why"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_over_a_lane_are_those_that_would_not() {
    let toy = ToyModel::new(Architecture::Llama);
    let loaded = load_toy(&toy);
    let prompt = prompt(130, toy.vocab as u32);
    let switch = Arc::new(Switch::default());
    let plan = |faults| LanePlan {
        fabric: FakeFabric::new(&switch, faults),
        timeout: Duration::from_secs(5),
    };
    // The lane breaks within the third transfer.
    let faults = FabricFaults {
        send: Some((toy.layers + 1, Fault::Fails)),
        ..Default::default()
    };
    let section = PrefillSection::default();
    let lanes = Some(plan(faults));
    let (mut client, _serving) = start_watched(section, loaded.clone(), lanes, Health::new()).await;
    let counts = Arc::<LaneCounts>::default();
    let receives = plan(FabricFaults::default()).setup("decode-test", Arc::clone(&counts));
    let (address, received) = start_over::<3>(Lanes::new(receives)).await;
    let mut all = Vec::new();
    for received in received {
        let asked = request(&loaded, &prompt, "lava", 48, address.to_string());
        let (_, done) = run(&mut client, asked).await.unwrap();
        let received = timeout(Duration::from_secs(20), received).await;
        let stats = done.stats.unwrap();
        all.push((received.unwrap().unwrap(), counts.payload_bytes(), stats));
        let patience = Instant::now() + Duration::from_secs(20);
        while all.len() == 1 && counts.open() == 0 {
            assert!(Instant::now() < patience, "the lane is not opened");
            sleep(Duration::from_millis(5)).await;
        }
    }
    let [(first, none, _), (second, whole, stats), (third, part, _)] = &all[..] else {
        panic!("three transfers");
    };
    assert!(first.tables == second.tables && first.tables == third.tables);
    assert_eq!((*none, *whole), (0, stats.shipped_bytes));
    assert!(whole < part && *part < 2 * whole, "{whole} {part}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_wait_together_and_prompts_that_begin_alike_ship_the_same_rows() {
    let toy = ToyModel {
        context: 2048,
        ..ToyModel::new(Architecture::Llama)
    };
    let loaded = load_toy(&toy);
    let section = PrefillSection {
        together_tokens_max: 400,
        prefix_bytes: Some(1 << 26),
        ..Default::default()
    };
    let client = start_with(section, loaded.clone()).await;
    let all = prompt(1500, toy.vocab as u32);
    // A long one first, so that the others wait.
    let prompts = [
        all[..1200].to_vec(),
        all[3..90].to_vec(),
        all[..40].to_vec(),
        all[7..207].to_vec(),
        all[..1].to_vec(),
        [&all[..1100], &all[1300..]].concat(),
        all[100..480].to_vec(),
    ];
    let format = RowFormat::Int4;
    let mut asking = tokio::task::JoinSet::new();
    for (index, prompt) in prompts.clone().into_iter().enumerate() {
        let (mut client, loaded) = (client.clone(), loaded.clone());
        asking.spawn(async move {
            let of = shipped(&mut client, &loaded, &prompt, "lava", 48, format);
            (index, of.await)
        });
    }
    let mut reused = 0;
    while let Some(asked) = asking.join_next().await {
        let (index, (received, stats)) = asked.unwrap();
        let expected = expected(
            &loaded,
            &prompts[index],
            "lava".parse().unwrap(),
            48,
            format,
        );
        assert!(received.tables == expected, "prompt {index}");
        reused += stats.reused_tokens;
    }
    assert_eq!(
        reused, 1024,
        "whichever of the two long prompts came second"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_an_early_end_gives_up_lasts_until_its_caller_has_left() {
    let toy = ToyModel::new(Architecture::Llama);
    let loaded = load_toy(&toy);
    let mut client = crate::worker::start(loaded.clone()).await;
    let prompt = prompt(130, toy.vocab as u32);
    let (first, _) = shipped(&mut client, &loaded, &prompt, "lava", 48, RowFormat::F16).await;
    for leaves in [true, false] {
        let (address, mut received) = crate::receiver::start().await;
        let mut asked = request(&loaded, &prompt, "lava", 48, address.to_string());
        asked.attempt.as_mut().unwrap().stop_token_ids = vec![first.first_token];
        let mut events = client.run(asked).await.unwrap().into_inner();
        for _ in ["its first token, which is its last", "its end"] {
            assert!(events.message().await.unwrap().is_some());
        }
        let soon = Duration::from_millis(300);
        assert!(
            timeout(soon, &mut received).await.is_err(),
            "it is still open"
        );
        // Who stays hears the end of the call all the same.
        if !leaves {
            let end = timeout(Duration::from_secs(20), events.message()).await;
            assert!(end.unwrap().unwrap().is_none());
        }
        drop(events);
        let ended = timeout(Duration::from_secs(20), received).await.unwrap();
        assert!(ended.is_err(), "it ends without a seal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_placed_wrong_are_refused_before_any_compute() {
    let toy = ToyModel::new(Architecture::Llama);
    let loaded = load_toy(&toy);
    let mut client = crate::worker::start(loaded.clone()).await;
    let prompt = prompt(50, toy.vocab as u32);
    let good = request(&loaded, &prompt, "lava", 64, "127.0.0.1:1".into());
    let attempt = good.attempt.clone().unwrap();

    let mut other_model = good.clone();
    other_model.attempt = Some(lava_proto::worker::Attempt {
        fingerprint: vec![0; 16].into(),
        ..attempt.clone()
    });
    let mut other_prompt = good.clone();
    let mut bytes = other_prompt.prompt.to_vec();
    bytes[13] ^= 1;
    other_prompt.prompt = bytes.into();
    let mut no_ticket = good.clone();
    no_ticket.ticket = Default::default();
    let mut no_address = good.clone();
    no_address.link_address = "no address".into();
    let mut late = good.clone();
    late.attempt = Some(lava_proto::worker::Attempt {
        deadline_ms: 0,
        ..attempt
    });
    for (request, code, text) in [
        (other_model, Code::Aborted, "placed for another model"),
        (other_prompt, Code::InvalidArgument, "another digest"),
        (no_ticket, Code::InvalidArgument, "ticket is 0 bytes"),
        (no_address, Code::Aborted, "\"no address\""),
        (late, Code::DeadlineExceeded, "in the prefill queue"),
        (good, Code::Aborted, "the link to the decode worker broke"),
    ] {
        let status = run(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
}
