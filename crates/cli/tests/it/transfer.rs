//! One request through three processes: the same answer as in one, at the size of the budget.

use std::path::Path;

use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;

use crate::asking::{Answer, ask, text, tokens};
use crate::cluster::Cluster;
use crate::{SMOLLM2, json, model};

/// What the hand-off may take on loopback, at the median.
const HAND_OFF_MS: f64 = 10.0;

fn demo_prompt() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/prompt.txt");
    std::fs::read_to_string(file).unwrap()
}

async fn greedy(
    client: &mut InferenceClient<Channel>,
    prompt: &str,
    max_tokens: u32,
    budget: u32,
) -> Answer {
    let mut request = text("model", prompt, max_tokens, budget);
    request.logprobs = Some(2);
    ask(client, request).await.unwrap()
}

/// What `lava generate` makes of the same in one process.
fn alone(prompt: &str, max_tokens: u32, budget: u32) -> serde_json::Value {
    let (max_tokens, budget) = (max_tokens.to_string(), budget.to_string());
    json(&[
        "--raw",
        "--prompt",
        prompt,
        "--max-tokens",
        &max_tokens,
        "--budget",
        &budget,
    ])
}

/// Nothing depends on what a computation is batched with, so not even a close call falls otherwise.
#[track_caller]
fn assert_same(answer: &Answer, alone: &serde_json::Value) {
    let expected = alone["tokens"].as_array().unwrap();
    let expected: Vec<u64> = expected
        .iter()
        .map(|token| token["id"].as_u64().unwrap())
        .collect();
    let ids = answer.tokens.iter().map(|token| u64::from(token.id));
    assert_eq!(ids.collect::<Vec<_>>(), expected);
}

// Runs processes to their end in between, so the client's connection needs a thread of its own.
#[tokio::test(flavor = "multi_thread")]
async fn three_processes_answer_as_one_does_at_the_size_of_the_budget() {
    let cluster = Cluster::three_processes(&model(SMOLLM2)).ready();
    let mut client = cluster.client().await;

    // N <= b: everything is kept.
    let story = "Once upon a time there was a small dragon who was afraid of fire. Every morning";
    let whole = greedy(&mut client, story, 48, 1024).await;
    assert_same(&whole, &alone(story, 48, 1024));
    let (t, n) = (
        whole.transfer(),
        whole.finish.as_ref().unwrap().usage.unwrap().prompt_tokens,
    );
    assert_eq!(t.rows_kept, u64::from(n) * 30 * 3);
    assert_eq!(t.row_bytes, t.full_bytes);

    // N > b: the engine's own rows, and no more bytes than their size.
    let prompt = demo_prompt();
    let expected = alone(&prompt, 32, 128);
    let kept = greedy(&mut client, &prompt, 32, 128).await;
    assert_same(&kept, &expected);
    let t = kept.transfer();
    println!("{t:?}");
    assert_eq!(Some(t.rows_kept), expected["rows_kept"].as_u64());
    assert_eq!(Some(t.stored_bytes), expected["kept_bytes"].as_u64());
    assert_eq!(Some(t.full_bytes), expected["full_cache_bytes"].as_u64());
    let overhead = t.shipped_bytes as f64 / t.row_bytes as f64;
    assert!(
        (1.0..1.10).contains(&overhead),
        "payload over elements: {overhead}"
    );
    assert!(t.early_share_bound > 0.9, "{}", t.early_share_bound);
    assert!(
        t.early_share >= 0.95 * t.early_share_bound,
        "{} of {}",
        t.early_share,
        t.early_share_bound
    );
    assert_eq!(t.recomputes, 0);
    // Packing is a part of the prefill, and a small one.
    assert!(t.packing_ms > 0.0, "{}", t.packing_ms);
    assert!(
        t.scoring_ms + t.packing_ms < 0.5 * t.prefill_ms,
        "scoring {} and packing {} of {}",
        t.scoring_ms,
        t.packing_ms,
        t.prefill_ms
    );
    let counted = 1e3 * cluster.metric("lava_prefill_packing_seconds_total");
    let reported = whole.transfer().packing_ms + t.packing_ms;
    assert!(
        (counted - reported).abs() < 1e-6,
        "{counted} and {reported}"
    );
    assert_eq!(
        cluster.metric("lava_decode_received_bytes_total"),
        (t.shipped_bytes + whole.transfer().shipped_bytes) as f64
    );

    // One id follows a request through all processes.
    let mut named = tonic::Request::new(text("model", "Hello", 3, 128));
    named
        .metadata_mut()
        .insert("x-request-id", "follow-me".parse().unwrap());
    let mut stream = client.generate(named).await.unwrap().into_inner();
    while crate::asking::next(&mut stream).await.unwrap().is_some() {}
    cluster.idle();
    for process in &cluster.processes {
        let log = process.log();
        assert!(log.contains("\"request\":\"follow-me\""), "{log}");
    }

    // The hand-off, after connections and caches are warm. Whatever else the machine does only adds to
    // it, so the best of a few rounds counts.
    let mut medians = Vec::new();
    while medians.len() < 3 && medians.iter().all(|median| *median >= HAND_OFF_MS) {
        medians.push(hand_off(&mut client, 9).await);
    }
    println!("median hand-off in ms, by round: {medians:.2?}");
    assert!(
        medians.iter().any(|median| *median < HAND_OFF_MS),
        "{medians:?}"
    );
    cluster.idle();
}

/// The median of `requests` (odd), from the last layer's end to the first decode step.
async fn hand_off(client: &mut InferenceClient<Channel>, requests: u32) -> f64 {
    let mut hand_offs = Vec::new();
    for index in 0..requests {
        let ids = (0..200)
            .map(|i| 1000 + (i * 7 + index * 13) % 5000)
            .collect();
        let answer = ask(client, tokens("model", ids, 2, 128)).await.unwrap();
        let t = answer.transfer();
        hand_offs.push(t.receipt_ms + t.first_step_wait_ms);
    }
    hand_offs.sort_by(f64::total_cmp);
    println!("hand-off in ms, sorted: {hand_offs:.2?}");
    hand_offs[hand_offs.len() / 2]
}

#[tokio::test]
async fn a_first_token_that_ends_the_answer_ships_nothing() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"model\""]);
    let mut client = cluster.client().await;
    let one = ask(&mut client, text("model", "Hello", 1, 128))
        .await
        .unwrap();
    let finish = one.finish.as_ref().unwrap();
    assert_eq!(
        (one.tokens.len(), finish.reason()),
        (1, v1::FinishReason::MaxTokens)
    );
    assert_eq!(one.transfer().shipped_bytes, 0);

    let stop = v1::GenerateRequest {
        stop_token_ids: one.ids(),
        ..text("model", "Hello", 9, 128)
    };
    let stopped = ask(&mut client, stop).await.unwrap();
    let finish = stopped.finish.as_ref().unwrap();
    assert_eq!(
        (stopped.ids(), finish.reason()),
        (one.ids(), v1::FinishReason::StopToken)
    );
    assert_eq!(stopped.text, "", "a stop token has no text");
    cluster.idle();
}

#[tokio::test]
async fn choices_differ_by_seed_and_repeat_with_it() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"model\""]);
    let mut client = cluster.client().await;
    let mut texts = Vec::new();
    for _ in 0..2 {
        let request = v1::GenerateRequest {
            n: Some(3),
            sampling: Some(v1::Sampling {
                temperature: Some(1.2),
                seed: Some(7),
                ..Default::default()
            }),
            ..text("model", "The best thing about the sea is", 8, 256)
        };
        let mut stream = client.generate(request).await.unwrap().into_inner();
        let mut choices = vec![(String::new(), 0); 3];
        while let Some(message) = crate::asking::next(&mut stream).await.unwrap() {
            let choice = &mut choices[message.choice as usize];
            choice.0.push_str(&message.text);
            choice.1 += usize::from(message.finish.is_some());
        }
        assert!(
            choices.iter().all(|(_, finished)| *finished == 1),
            "{choices:?}"
        );
        texts.push(choices);
    }
    assert_eq!(texts[0], texts[1]);
    assert!(
        texts[0][0] != texts[0][1] && texts[0][1] != texts[0][2],
        "{texts:?}"
    );
    cluster.idle();
}
