//! Where requests go: to the worker that has the prompt, and not to one whose calls break.

use lava_coordinator::PolicyName;
use lava_prefix::BlockName;
use lava_proto::v1::{FinishReason, GenerateRequest, Prompt, TokenIds, prompt};
use lava_proto::worker::Prefixes;
use tonic::Status;

use crate::scripted::{PrefillCall, Scripted, byte_id};
use crate::{Coordinator, failure, next, text};

const BLOCK_TOKENS: u32 = 4;

fn ids(ids: Vec<u32>) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt {
            form: Some(prompt::Form::Tokens(TokenIds { ids })),
        }),
        ..text("")
    }
}

/// What a worker says that has kept these blocks of a prompt.
fn prefixes(names: &[BlockName], version: u64) -> Prefixes {
    let added: Vec<u8> = names.iter().flat_map(|name| name.0.to_le_bytes()).collect();
    Prefixes {
        block_tokens: BLOCK_TOKENS,
        since: 0,
        version,
        added: added.into(),
        removed: Default::default(),
    }
}

async fn end(call: PrefillCall) {
    call.first(byte_id(b'x'), FinishReason::MaxTokens).await;
    call.done(0).await;
}

#[tokio::test]
async fn a_prompt_goes_to_the_worker_that_says_it_has_its_front() {
    let mut p1 = Scripted::prefill("p1").await;
    let mut p2 = Scripted::prefill("p2").await;
    let mut d = Scripted::decode("d").await;
    let prompt: Vec<u32> = (10..30).collect();
    let names = BlockName::of_prompt(&prompt, BLOCK_TOKENS as usize);
    p1.describe(|it| it.prefixes = Some(prefixes(&[], 1)));
    p2.describe(|it| it.prefixes = Some(prefixes(&names[..3], 1)));
    let coordinator = Coordinator::start(&[&p1, &p2, &d]).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 2")
        .await;
    let mut answer = coordinator.generate(ids(prompt.clone())).await;
    let _reserved = d.next_reserved(1).await;
    end(p2.next_prefill().await).await;
    assert_eq!(next(&mut answer).await.tokens.len(), 1);
    // 20 tokens, of which three blocks of 4 are there.
    coordinator
        .metric("lava_coordinator_missing_tokens_total 8")
        .await;

    // It forgets them and the other one has more: the next one like it goes there.
    p2.describe(|it| it.prefixes = Some(prefixes(&[], 9)));
    p1.describe(|it| it.prefixes = Some(prefixes(&names, 5)));
    // After a probe of each.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut answer = coordinator.generate(ids(prompt)).await;
    let _reserved = d.next_reserved(2).await;
    end(p1.next_prefill().await).await;
    assert_eq!(next(&mut answer).await.tokens.len(), 1);
    coordinator
        .metric("lava_coordinator_missing_tokens_total 8")
        .await;
}

#[tokio::test]
async fn prompts_that_come_together_go_where_the_first_of_them_is_being_computed() {
    let mut p1 = Scripted::prefill("p1").await;
    let p2 = Scripted::prefill("p2").await;
    let mut d = Scripted::decode("d").await;
    for worker in [&p1, &p2] {
        worker.describe(|it| it.prefixes = Some(prefixes(&[], 1)));
    }
    let coordinator = Coordinator::start(&[&p1, &p2, &d]).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 2")
        .await;
    let prompt: Vec<u32> = (10..50).collect();
    let _first = coordinator.generate(ids(prompt.clone())).await;
    let _reserved = d.next_reserved(1).await;
    let _computed = p1.next_prefill().await;
    let _second = coordinator.generate(ids(prompt)).await;
    let _also_reserved = d.next_reserved(2).await;
    let _waits_behind_it = p1.next_prefill().await;
    coordinator
        .metric("lava_coordinator_missing_tokens_total 40")
        .await;
}

#[tokio::test]
async fn a_worker_whose_calls_break_is_left_alone_and_tried_again() {
    let mut p1 = Scripted::prefill("p1").await;
    let mut p2 = Scripted::prefill("p2").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::configured(&[&p1, &p2, &d], |config| {
        config.retry.attempts_max = 1;
        // What a worker was given lately does not count, so that it is the same one again.
        config.placement.prefill = PolicyName::LeastLoaded;
        config.placement.breaker_failures = 2;
        config.placement.breaker_pause_ms = 1000;
    })
    .await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 2")
        .await;
    for _ in 0..2 {
        let mut answer = coordinator.generate(text("hello")).await;
        let _reserved = d.next_reserved(1).await;
        p1.next_prefill()
            .await
            .fail(Status::unavailable("broken"))
            .await;
        failure(&mut answer).await;
        // It answers a probe, and is no suspect any more.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    coordinator
        .metric("lava_coordinator_breaker_openings_total 1")
        .await;
    // It answers probes, and the other one gets what comes.
    let mut answer = coordinator.generate(text("hello")).await;
    let _reserved = d.next_reserved(1).await;
    end(p2.next_prefill().await).await;
    next(&mut answer).await;
    tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let _reserved = d.next_reserved(1).await;
    end(p1.next_prefill().await).await;
    next(&mut answer).await;
}
