//! Workers that fail, and how their answers go on.

use std::time::Duration;

use lava_cluster::Registry;
use lava_coordinator::Config;
use lava_node::Health;
use lava_proto::ids_to_bytes;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::{FinishReason, GenerateRequest, Sampling, Token, TopLogprob};
use lava_proto::worker::{Attempt, DecodeEvent, Tokens, decode_event};
use tonic::{Code, Status};

use crate::scripted::{DecodeCall, Scripted, byte_id};
use crate::{Coordinator, failure, next, text, within};

/// A prefill worker, two decode workers, and a coordinator that sees all of them.
async fn two_decode_workers() -> (Scripted, Scripted, Scripted, Coordinator) {
    let p = Scripted::prefill("p").await;
    let d1 = Scripted::decode("d1").await;
    let d2 = Scripted::decode("d2").await;
    let coordinator = Coordinator::start(&[&p, &d1, &d2]).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 2")
        .await;
    (p, d1, d2, coordinator)
}

#[tokio::test]
async fn a_prefill_that_breaks_is_repeated_on_another_worker() {
    let mut p1 = Scripted::prefill("p1").await;
    let mut p2 = Scripted::prefill("p2").await;
    let mut d1 = Scripted::decode("d1").await;
    let mut d2 = Scripted::decode("d2").await;
    let coordinator = Coordinator::start(&[&p1, &p2, &d1, &d2]).await;
    // Which workers are ready when the model is first served is a race of probes.
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 2")
        .await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 2")
        .await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d1.next_reserved(1).await;
    let prefill = p1.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "a");
    prefill.fail(Status::aborted("the link broke")).await;
    decode.dropped().await;

    let again = d2.next_reserved(2).await;
    let prefill_again = p2.next_prefill().await;
    let before = prefill.request.attempt.as_ref().unwrap();
    let after = prefill_again.request.attempt.as_ref().unwrap();
    assert_eq!((before.number, after.number), (0, 1));
    assert_eq!(after.answered, [byte_id(b'a')]);
    assert_eq!(
        prefill_again.request.prompt,
        [
            &prefill.request.prompt[..],
            &ids_to_bytes(&[&after.answered])
        ]
        .concat()
    );
    assert_eq!(after.tokens, before.tokens + 1);
    assert_eq!(after.max_tokens, before.max_tokens - 1);
    // Everything was kept, and a longer prompt must not change that.
    assert_eq!(after.policy, "full");
    assert_eq!(again.request.rows_max, decode.request.rows_max);
    assert_eq!(&*prefill_again.request.ticket, [2; 16]);
    prefill_again
        .first(byte_id(b'b'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "b");
    prefill_again.done(7).await;
    again.tokens(&[byte_id(b'c')]).await;
    again.done(FinishReason::EndOfText).await;
    assert_eq!(next(&mut answer).await.text, "c");
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.usage.unwrap().answer_tokens, 3);
    assert_eq!(finish.transfer.unwrap().recomputes, 1);
    coordinator
        .metric("lava_coordinator_recomputes_total 1")
        .await;
    coordinator
        .metric("lava_coordinator_attempts_total 2")
        .await;
}

#[tokio::test]
async fn a_decode_worker_that_dies_leaves_no_gap_in_the_answer() {
    let (mut p, mut d1, mut d2, coordinator) = two_decode_workers().await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d1.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "a");
    prefill.done(7).await;
    decode.tokens(&[byte_id(b'b')]).await;
    assert_eq!(next(&mut answer).await.text, "b");
    // Some probes later its load shows the request. Then the whole process is gone, connections and all.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(d1);

    let again = d2.next_reserved(2).await;
    let prefill_again = p.next_prefill().await;
    let attempt = prefill_again.request.attempt.as_ref().unwrap();
    assert_eq!(attempt.answered, b"ab".map(byte_id));
    prefill_again
        .first(byte_id(b'c'), FinishReason::Unspecified)
        .await;
    prefill_again.done(7).await;
    again.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "c");
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.transfer.unwrap().recomputes, 1);
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 1")
        .await;
    // Its address stays listed, and what it held is forgotten all the same.
    drop(answer);
    coordinator.metric("lava_coordinator_claims 0").await;
}

#[tokio::test]
async fn sampled_choices_go_on_with_their_own_seeds_and_a_stop_string_across_the_fault_is_met() {
    let (mut p, mut d1, mut d2, coordinator) = two_decode_workers().await;
    let request = GenerateRequest {
        n: Some(2),
        stop: vec!["STOP".to_owned()],
        sampling: Some(Sampling {
            temperature: Some(0.8),
            seed: Some(7),
            ..Sampling::default()
        }),
        ..text("hello")
    };
    let mut answer = coordinator.generate(request).await;
    // One choice on each decode worker; both have come as far as "aS".
    let mut begun = Vec::new();
    for (worker, ticket) in [(&mut d1, 1), (&mut d2, 2)] {
        let decode = worker.next_reserved(ticket).await;
        let prefill = p.next_prefill().await;
        prefill
            .first(byte_id(b'a'), FinishReason::Unspecified)
            .await;
        prefill.done(7).await;
        decode.tokens(&[byte_id(b'S')]).await;
        begun.push(decode);
    }
    let mut texts = [String::new(), String::new()];
    let mut tokens = 0;
    while tokens < 4 {
        let message = next(&mut answer).await;
        tokens += message.tokens.len();
        texts[message.choice as usize] += &message.text;
    }
    assert_eq!(texts, ["a", "a"], "what may be a stop string is held back");
    let sampling = |attempt: &Option<Attempt>| attempt.as_ref().unwrap().sampling.unwrap();
    let seeds = |calls: &[DecodeCall]| -> Vec<u64> {
        let seeds = calls
            .iter()
            .map(|call| sampling(&call.request.attempt).seed.unwrap());
        seeds.collect()
    };
    let before = seeds(&begun);
    // Choice i draws with the seed plus i, and which one came to which worker is a race.
    let lost = usize::try_from(before[0] - 7).unwrap();
    assert_eq!(before[1], 7 + 1 - lost as u64, "choices differ");
    drop(d1);
    let again = d2.next_reserved(3).await;
    let prefill_again = p.next_prefill().await;
    let attempt = prefill_again.request.attempt.as_ref().unwrap();
    assert_eq!(attempt.answered, b"aS".map(byte_id));
    assert_eq!(
        sampling(&prefill_again.request.attempt),
        sampling(&begun[0].request.attempt),
        "draws follow from the seed and a token's place in the answer"
    );
    prefill_again
        .first(byte_id(b'T'), FinishReason::Unspecified)
        .await;
    prefill_again.done(7).await;
    again.tokens(&b"OP!".map(byte_id)).await;
    // The other choice goes on as if nothing had happened.
    begun[1].tokens(&[byte_id(b'e')]).await;
    begun[1].done(FinishReason::EndOfText).await;
    let mut finishes = [None, None];
    while finishes.iter().any(Option::is_none) {
        let message = next(&mut answer).await;
        texts[message.choice as usize] += &message.text;
        finishes[message.choice as usize] = message.finish;
    }
    let [mut first, mut second] = finishes.map(Option::unwrap);
    if lost == 1 {
        texts.swap(0, 1);
        std::mem::swap(&mut first, &mut second);
    }
    assert_eq!(texts, ["a", "aSe"]);
    assert_eq!(
        (first.reason(), first.stop.as_str()),
        (FinishReason::StopString, "STOP")
    );
    assert_eq!(first.transfer.unwrap().recomputes, 1);
    assert_eq!(second.reason(), FinishReason::EndOfText);
    assert_eq!(second.transfer.unwrap().recomputes, 0);
}

#[tokio::test]
async fn a_share_of_the_prompt_does_not_grow_with_the_answer() {
    let (mut p, mut d1, mut d2, coordinator) = two_decode_workers().await;
    let mut request = text(&"x".repeat(100));
    request.budget_form = Some(BudgetForm::BudgetShareMilli(500));
    let mut answer = coordinator.generate(request).await;
    let decode = d1.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    let before = prefill.request.attempt.as_ref().unwrap();
    assert_eq!(before.budget, before.tokens / 2);
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    next(&mut answer).await;
    prefill.done(7).await;
    decode.tokens(&[byte_id(b'b')]).await;
    next(&mut answer).await;
    drop(d1);

    let again = d2.next_reserved(2).await;
    let prefill_again = p.next_prefill().await;
    let after = prefill_again.request.attempt.as_ref().unwrap();
    assert_eq!(after.tokens, before.tokens + 2);
    assert_eq!(
        (after.budget, &after.policy),
        (before.budget, &before.policy)
    );
    prefill_again
        .first(byte_id(b'c'), FinishReason::Unspecified)
        .await;
    prefill_again.done(7).await;
    again.done(FinishReason::MaxTokens).await;
    next(&mut answer).await;
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.budget, before.budget);
}

#[tokio::test]
async fn full_workers_are_told_to_the_client_with_a_time_to_come_back() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    *d.refuses.lock().unwrap() = Some(Status::resource_exhausted("no pages"));
    let change = |config: &mut Config| config.admission.waiting_max = 0;
    let coordinator = Coordinator::configured(&[&p, &d], change).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let status = answer.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the decode worker: no pages");
    assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "1000");
    coordinator
        .metric("lava_coordinator_refusals_total{reason=\"worker\"} 1")
        .await;
    coordinator
        .metric("lava_coordinator_attempts_total 1")
        .await;
}

#[tokio::test]
async fn attempts_end_and_the_last_failure_is_told() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    *d.refuses.lock().unwrap() = Some(Status::unavailable("draining"));
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let expected = (Code::Unavailable, "the decode worker: draining".to_owned());
    assert_eq!(failure(&mut answer).await, expected);
    // The only pair there is, three times; and once that does not count, since the worker let nothing in.
    coordinator
        .metric("lava_coordinator_attempts_total 4")
        .await;
}

#[tokio::test]
async fn a_draining_worker_gets_nothing_new() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    d.description.lock().unwrap().draining = true;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 0")
        .await;
    let status = coordinator.refused(text("hello")).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        r#"no decode worker of model "toy" is ready"#
    );
}

#[tokio::test]
async fn a_request_that_no_pool_can_ever_hold_is_not_told_to_wait() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    d.description
        .lock()
        .unwrap()
        .load
        .as_mut()
        .unwrap()
        .pages_total = 10;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let (code, message) = failure(&mut answer).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.ends_with("the largest pool has 10; ask for fewer tokens or a smaller budget"));
}

/// 64 tokens with 20 logprobs each: some 20 KB.
fn large(id: u32) -> DecodeEvent {
    let token = Token {
        id,
        logprob: Some(-1.0),
        top: vec![
            TopLogprob {
                id: 258,
                logprob: -2.0
            };
            20
        ],
    };
    let tokens = vec![token; 64];
    DecodeEvent {
        event: Some(decode_event::Event::Tokens(Tokens { tokens })),
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_the_decode_worker_wait() {
    const MESSAGES: usize = 1000;
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator =
        Coordinator::configured(&[&p, &d], |c| c.limits.answer_messages_max = 4).await;
    let mut request = text("hello");
    request.max_tokens = Some(90_000);
    request.logprobs = Some(20);
    let mut answer = coordinator.generate(request).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(1).await;
    let mut sent = 0;
    // A worker that is not made to wait sends a message in microseconds.
    while sent < MESSAGES {
        let send = decode.events.send(Ok(large(byte_id(b'b'))));
        match tokio::time::timeout(Duration::from_secs(1), send).await {
            Ok(result) => result.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(
        sent < MESSAGES,
        "20 MB were taken in for a client that reads nothing"
    );
    let mut tokens = 0;
    while tokens < 1 + 64 * sent {
        tokens += next(&mut answer).await.tokens.len();
    }
    decode.done(FinishReason::MaxTokens).await;
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.usage.unwrap().answer_tokens as usize, tokens);
}

#[tokio::test]
async fn a_request_that_lost_its_only_worker_waits_for_the_next_one() {
    let mut p = Scripted::prefill("p").await;
    let mut d1 = Scripted::decode("d1").await;
    let registry = Registry::memory();
    let register = |id: &str, worker: &Scripted| {
        registry.register(id.to_owned(), worker.address.clone(), &Health::new())
    };
    let _p = register("p", &p);
    let first = register("d1", &d1);
    let coordinator = Coordinator::with(registry.clone(), |_| {}).await;
    coordinator.serving().await;
    let mut answer = coordinator.generate(text("hello")).await;
    let _decode = d1.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "a");
    drop((d1, first));
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 0")
        .await;
    // New ones are told at once.
    let status = coordinator.refused(text("hello")).await;
    assert_eq!(status.code(), Code::Unavailable);

    let mut d2 = Scripted::decode("d2").await;
    let _second = register("d2", &d2);
    let again = d2.next_reserved(2).await;
    let prefill_again = p.next_prefill().await;
    prefill_again
        .first(byte_id(b'b'), FinishReason::Unspecified)
        .await;
    prefill_again.done(7).await;
    again.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "b");
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.transfer.unwrap().recomputes, 1);
}

#[tokio::test]
async fn a_request_whose_workers_do_not_come_back_is_told_before_its_deadline() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = tonic::Request::new(text("hello"));
    request.set_timeout(Duration::from_secs(4));
    let answer = within(coordinator.client().generate(request)).await;
    let mut answer = answer.unwrap().into_inner();
    let _decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    drop(d);
    let (code, message) = failure(&mut answer).await;
    assert_eq!(code, Code::Unavailable, "{message}");
    assert!(message.starts_with("the decode worker: "), "{message}");
    coordinator.metric("lava_coordinator_flights 0").await;
}

#[tokio::test]
async fn a_decode_worker_that_does_not_reserve_in_time_is_left_for_another() {
    let mut p = Scripted::prefill("p").await;
    let mut d1 = Scripted::decode("d1").await;
    let mut d2 = Scripted::decode("d2").await;
    let change = |config: &mut Config| config.retry.reserve_ms = 300;
    let coordinator = Coordinator::configured(&[&p, &d1, &d2], change).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 2")
        .await;
    let mut answer = coordinator.generate(text("hello")).await;
    // It takes the call and says nothing.
    let silent = d1.next_decode().await;
    let again = d2.next_reserved(2).await;
    silent.dropped().await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(7).await;
    again.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "a");
    // No prompt had been run.
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.transfer.unwrap().recomputes, 0);
}

#[tokio::test]
async fn an_answer_that_falls_silent_goes_on_elsewhere() {
    let mut p = Scripted::prefill("p").await;
    let mut d1 = Scripted::decode("d1").await;
    let mut d2 = Scripted::decode("d2").await;
    let change = |config: &mut Config| config.retry.silence_ms = 300;
    let coordinator = Coordinator::configured(&[&p, &d1, &d2], change).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 2")
        .await;
    let mut answer = coordinator.generate(text("hello")).await;
    let silent = d1.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(7).await;
    silent.tokens(&[byte_id(b'b')]).await;
    let again = d2.next_reserved(2).await;
    silent.dropped().await;
    let prefill_again = p.next_prefill().await;
    prefill_again.first(2, FinishReason::EndOfText).await;
    again.dropped().await;
    let mut text = String::new();
    let finish = loop {
        let message = next(&mut answer).await;
        text += &message.text;
        if let Some(finish) = message.finish {
            break finish;
        }
    };
    assert_eq!(text, "ab");
    assert_eq!(finish.transfer.unwrap().recomputes, 1);
}

#[tokio::test]
async fn retries_beyond_the_budget_are_denied() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    *d.refuses.lock().unwrap() = Some(Status::unavailable("broken"));
    let change = |config: &mut Config| {
        config.limits.flights_max = 2;
        config.limits.choices_max = 1;
        config.retry.percent = 0;
    };
    let coordinator = Coordinator::configured(&[&p, &d], change).await;
    // Two are in store, and the first answer takes both and wants more.
    for (attempts, denied) in [(3, 1), (4, 2)] {
        let mut answer = coordinator.generate(text("hello")).await;
        let expected = (Code::Unavailable, "the decode worker: broken".to_owned());
        assert_eq!(failure(&mut answer).await, expected);
        let attempts = format!("lava_coordinator_attempts_total {attempts}");
        coordinator.metric(&attempts).await;
        let denied = format!("lava_coordinator_retries_denied_total {denied}");
        coordinator.metric(&denied).await;
    }
}

#[tokio::test]
async fn promise_6_an_answer_whose_worker_lost_its_engine_goes_on_elsewhere() {
    let (mut p, mut d1, mut d2, coordinator) = two_decode_workers().await;
    let mut answer = coordinator.generate(text("hello")).await;
    let broken = d1.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "a");
    prefill.done(7).await;
    // What a worker does whose engine panicked: its answers end, and it takes nothing new.
    d1.description.lock().unwrap().draining = true;
    drop(broken);
    let again = d2.next_reserved(2).await;
    let prefill_again = p.next_prefill().await;
    prefill_again
        .first(byte_id(b'b'), FinishReason::Unspecified)
        .await;
    prefill_again.done(7).await;
    again.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "b");
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.transfer.unwrap().recomputes, 1);
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 1")
        .await;
}
