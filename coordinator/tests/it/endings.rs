//! Ends that are nobody's fault: the client leaves, time is up, the coordinator shuts down.

use std::time::Duration;

use lava_proto::v1::FinishReason;
use tonic::Code;

use crate::scripted::{DecodeCall, PrefillCall, Scripted, byte_id};
use crate::{Coordinator, failure, next, text, within};

async fn both_dropped(coordinator: &Coordinator, prefill: &PrefillCall, decode: &DecodeCall) {
    prefill.dropped().await;
    decode.dropped().await;
    coordinator.metric("lava_coordinator_flights 0").await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_prefill_ends_both_calls() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    drop(answer);
    both_dropped(&coordinator, &prefill, &decode).await;
    coordinator
        .metric("lava_coordinator_requests_total{outcome=\"client_gone\"} 1")
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_the_reservation_waits_ends_the_call() {
    let p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let answer = coordinator.generate(text("hello")).await;
    let decode = d.next_decode().await;
    drop(answer);
    decode.dropped().await;
    coordinator.metric("lava_coordinator_flights 0").await;
}

#[tokio::test]
async fn a_client_that_leaves_between_tokens_ends_both_calls() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    next(&mut answer).await;
    decode.tokens(&[byte_id(b'b')]).await;
    next(&mut answer).await;
    drop(answer);
    both_dropped(&coordinator, &prefill, &decode).await;
}

#[tokio::test]
async fn the_clients_deadline_ends_both_calls() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = tonic::Request::new(text("hello"));
    request.set_timeout(Duration::from_millis(500));
    let answer = within(coordinator.client().generate(request)).await;
    let mut answer = answer.unwrap().into_inner();
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    let attempt = prefill.request.attempt.as_ref().unwrap();
    assert!((1..=500).contains(&attempt.deadline_ms));
    let expected = "the deadline passed before the answer was whole";
    assert_eq!(
        failure(&mut answer).await,
        (Code::DeadlineExceeded, expected.to_owned())
    );
    both_dropped(&coordinator, &prefill, &decode).await;
    coordinator
        .metric("lava_coordinator_refusals_total{reason=\"deadline\"} 1")
        .await;
    coordinator.metric("lava_coordinator_flights_stuck 0").await;
}

#[tokio::test]
async fn a_drain_refuses_new_requests_and_lets_running_ones_end() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let mut coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    coordinator.shutdown.trigger();
    let status = coordinator.refused(text("more")).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "the coordinator is shutting down");
    coordinator
        .health(tonic_health::pb::health_check_response::ServingStatus::NotServing)
        .await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(1).await;
    decode.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "a");
    assert!(next(&mut answer).await.finish.is_some());
    within(&mut coordinator.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_that_takes_too_long_cuts_answers() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let mut coordinator = Coordinator::configured(&[&p, &d], |c| c.drain.timeout_ms = 50).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    coordinator.shutdown.trigger();
    let (code, message) = failure(&mut answer).await;
    assert_eq!(code, Code::Unavailable);
    assert_eq!(
        message,
        "the coordinator is shutting down and the answer took too long"
    );
    prefill.dropped().await;
    decode.dropped().await;
    within(&mut coordinator.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_coordinator_of_which_a_part_fails_serves_what_it_has_and_ends_with_an_error() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let mut coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    // What the supervisor of its tasks says when one panics.
    coordinator.judged.failed("roster panicked".to_owned());
    coordinator
        .health(tonic_health::pb::health_check_response::ServingStatus::NotServing)
        .await;
    let status = coordinator.refused(text("more")).await;
    assert_eq!(status.code(), Code::Unavailable);
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(1).await;
    decode.done(FinishReason::MaxTokens).await;
    assert_eq!(next(&mut answer).await.text, "a");
    assert!(next(&mut answer).await.finish.is_some());
    let ended = within(&mut coordinator.task).await.unwrap();
    assert_eq!(
        ended.unwrap_err().to_string(),
        "roster panicked; the log says why"
    );
}

#[tokio::test]
async fn answers_under_way_are_bounded() {
    let p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::configured(&[&p, &d], |c| {
        c.limits.flights_max = 1;
        c.limits.choices_max = 1;
        c.admission.waiting_max = 0;
    })
    .await;
    let answer = coordinator.generate(text("hello")).await;
    let decode = d.next_decode().await;
    let status = coordinator.refused(text("more")).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        status.message(),
        "1 answers are under way or waiting, which is the most; try again later"
    );
    assert!(status.metadata().get("retry-after-ms").is_some());
    coordinator
        .metric("lava_coordinator_refusals_total{reason=\"too_many_flights\"} 1")
        .await;
    drop(answer);
    decode.dropped().await;
    coordinator.metric("lava_coordinator_flights 0").await;
    let _next = coordinator.generate(text("more")).await;
}
