//! Answers without faults.

use lava_proto::v1::{FinishReason, Sampling};
use lava_proto::{ids_of_bytes, prompt_digest};

use crate::scripted::{END_OF_TEXT, Scripted, byte_id};
use crate::{Coordinator, ids, next, text, within};

#[tokio::test]
async fn a_good_answer_reaches_the_client_token_by_token() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = tonic::Request::new(text("hello"));
    request
        .metadata_mut()
        .insert("x-request-id", "mine-1".parse().unwrap());
    let response = within(coordinator.client().generate(request))
        .await
        .unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "mine-1");
    let mut answer = response.into_inner();

    let decode = d.next_reserved(9).await;
    let prefill = p.next_prefill().await;
    let attempt = prefill.request.attempt.clone().unwrap();
    let prompt = &ids_of_bytes(&prefill.request.prompt).unwrap();
    assert!(prompt.ends_with(&b"hello".map(byte_id)));
    assert_eq!(&*prefill.request.ticket, [9; 16]);
    assert_eq!(prefill.request.link_address, d.address);
    assert_eq!(attempt.request_id, "mine-1");
    assert_eq!((attempt.number, attempt.tokens), (0, prompt.len() as u32));
    assert_eq!(&*attempt.prompt_digest, prompt_digest(prompt));
    assert_eq!(&*attempt.fingerprint, [1; 16]);
    assert_eq!(
        (attempt.policy.as_str(), attempt.budget),
        ("lava-peaks", 1024)
    );
    assert_eq!((attempt.max_tokens, attempt.logprobs), (256, None));
    assert_eq!(attempt.end_of_text, [END_OF_TEXT]);
    assert!(attempt.deadline_ms > 590_000 && attempt.deadline_ms <= 600_000);
    let rows = 4 * (prompt.len() as u64 + 255);
    assert_eq!(decode.request.rows_max, rows);
    assert!(decode.request.prompt_ids.is_empty());
    assert_eq!(
        decode.request.attempt,
        prefill.request.attempt.clone().map(|a| {
            let deadline_ms = decode.request.attempt.as_ref().unwrap().deadline_ms;
            lava_proto::worker::Attempt { deadline_ms, ..a }
        })
    );

    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    let first = next(&mut answer).await;
    assert_eq!(
        (first.text.as_str(), first.request_id.as_str()),
        ("a", "mine-1")
    );
    coordinator.metric("lava_coordinator_flights 1").await;
    prefill.done(77).await;
    decode.first_step().await;
    decode.tokens(&[byte_id(b'b'), byte_id(b'c')]).await;
    assert_eq!(next(&mut answer).await.text, "bc");
    decode.tokens(&[END_OF_TEXT]).await;
    decode.done(FinishReason::EndOfText).await;
    let last = next(&mut answer).await;
    assert_eq!((last.text.as_str(), ids(&last)), ("", vec![END_OF_TEXT]));
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.reason(), FinishReason::EndOfText);
    let usage = finish.usage.unwrap();
    assert_eq!(
        (usage.prompt_tokens, usage.answer_tokens),
        (attempt.tokens, 4)
    );
    let stats = finish.transfer.unwrap();
    assert_eq!(
        (stats.shipped_bytes, stats.first_step_ms, stats.recomputes),
        (77, 3.0, 0)
    );
    assert!(within(answer.message()).await.unwrap().is_none());
    coordinator.metric("lava_coordinator_flights 0").await;
    coordinator
        .metric("lava_coordinator_requests_total{outcome=\"answered\"} 1")
        .await;
}

#[tokio::test]
async fn decode_tokens_that_overtake_the_first_token_wait_for_it() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    decode.tokens(&[byte_id(b'b')]).await;
    decode.tokens(&[byte_id(b'c')]).await;
    decode.done(FinishReason::MaxTokens).await;
    // The coordinator has read the end of the decode worker's call.
    decode.dropped().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    assert_eq!(next(&mut answer).await.text, "abc");
    prefill.done(5).await;
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.reason(), FinishReason::MaxTokens);
    assert_eq!(finish.transfer.unwrap().shipped_bytes, 5);
}

#[tokio::test]
async fn a_first_token_that_ends_the_answer_frees_the_reservation() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut answer = coordinator.generate(text("hello")).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill.first(END_OF_TEXT, FinishReason::EndOfText).await;
    assert_eq!(ids(&next(&mut answer).await), [END_OF_TEXT]);
    let finish = next(&mut answer).await.finish.unwrap();
    assert_eq!(finish.reason(), FinishReason::EndOfText);
    decode.dropped().await;
    prefill.dropped().await;
}

#[tokio::test]
async fn a_stop_string_ends_the_decode_workers_call() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = text("hello");
    request.stop = vec!["bc".to_owned()];
    let mut answer = coordinator.generate(request).await;
    let decode = d.next_reserved(1).await;
    let prefill = p.next_prefill().await;
    prefill
        .first(byte_id(b'a'), FinishReason::Unspecified)
        .await;
    prefill.done(5).await;
    decode.tokens(&[byte_id(b'b')]).await;
    decode.tokens(&[byte_id(b'c'), byte_id(b'd')]).await;
    let mut seen = String::new();
    let finish = loop {
        let message = next(&mut answer).await;
        seen += &message.text;
        if let Some(finish) = message.finish {
            break finish;
        }
    };
    assert_eq!(seen, "a");
    assert_eq!(
        (finish.reason(), finish.stop.as_str()),
        (FinishReason::StopString, "bc")
    );
    assert_eq!(finish.usage.unwrap().answer_tokens, 3);
    decode.dropped().await;
}

#[tokio::test]
async fn choices_draw_with_seeds_of_their_own() {
    let mut p = Scripted::prefill("p").await;
    let mut d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = text("hello");
    request.n = Some(2);
    request.sampling = Some(Sampling {
        seed: Some(40),
        temperature: Some(1.0),
        repetition_penalty: Some(1.5),
        ..Sampling::default()
    });
    let mut answer = coordinator.generate(request).await;
    let mut seeds = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let decode = d.next_reserved(1).await;
        // 259 bits.
        assert_eq!(decode.request.prompt_ids.len(), 33);
        let prefill = p.next_prefill().await;
        let attempt = prefill.request.attempt.as_ref().unwrap();
        seeds.push(attempt.sampling.unwrap().seed.unwrap());
        prefill.first(byte_id(b'a'), FinishReason::MaxTokens).await;
        calls.push((decode, prefill));
    }
    seeds.sort_unstable();
    assert_eq!(seeds, [40, 41]);
    let mut finished = Vec::new();
    while finished.len() < 2 {
        let message = next(&mut answer).await;
        finished.extend(message.finish.map(|_| message.choice));
    }
    finished.sort_unstable();
    assert_eq!(finished, [0, 1]);
    assert!(within(answer.message()).await.unwrap().is_none());
    coordinator.metric("lava_coordinator_flights 0").await;
}
