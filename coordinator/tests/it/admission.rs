//! More requests than workers take: who waits, who goes first, who is refused.
//!
//! Workers are probed once, so what they have is what their first description says, less what the
//! coordinator has placed.

use std::time::Duration;

use lava_coordinator::Config;
use lava_proto::v1::{
    FinishReason, GenerateRequest, GenerateResponse, Priority, Prompt, TokenIds, prompt,
};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::scripted::{DecodeCall, PrefillCall, Scripted, byte_id};
use crate::{Coordinator, failure, next, text, within};

/// A coordinator and workers that make one answer at a time.
struct Narrow {
    coordinator: Coordinator,
    prefill: Scripted,
    decode: Scripted,
}

/// A request and the tenant it is made for.
struct Ask {
    tenant: &'static str,
    request: GenerateRequest,
}

impl Narrow {
    async fn start(change: impl FnOnce(&mut Config)) -> Narrow {
        let prefill = Scripted::prefill("p").await;
        let decode = Scripted::decode("d").await;
        if let Some(load) = &mut decode.description.lock().unwrap().load {
            load.slots_max = 1;
        }
        let coordinator = Coordinator::configured(&[&prefill, &decode], |config| {
            config.workers.probe_interval_ms = 600_000;
            change(config);
        })
        .await;
        Narrow {
            coordinator,
            prefill,
            decode,
        }
    }

    /// Both calls of the next answer that found room.
    async fn next_calls(&mut self) -> (DecodeCall, PrefillCall) {
        let decode = self.decode.next_reserved(1).await;
        let prefill = self.prefill.next_prefill().await;
        (decode, prefill)
    }

    /// Lets the next answer that found room end with its first token; its `max_tokens`, which tests tell
    /// requests apart by.
    async fn serve(&mut self) -> u32 {
        let (decode, prefill) = self.next_calls().await;
        finish(&decode, &prefill).await;
        prefill.request.attempt.as_ref().unwrap().max_tokens
    }

    async fn waiting(&self, priority: &str, count: usize) {
        let line = format!("lava_coordinator_waiting{{priority=\"{priority}\"}} {count}");
        self.coordinator.metric(&line).await;
    }

    async fn refusals(&self, reason: &str, count: usize) {
        let line = format!("lava_coordinator_refusals_total{{reason=\"{reason}\"}} {count}");
        self.coordinator.metric(&line).await;
    }

    async fn ask(&self, ask: Ask) -> Result<Streaming<GenerateResponse>, Status> {
        let mut request = Request::new(ask.request);
        let tenant = ask.tenant.parse().unwrap();
        request.metadata_mut().insert("x-lava-tenant", tenant);
        let response = within(self.coordinator.client().generate(request)).await;
        response.map(tonic::Response::into_inner)
    }
}

/// Ends an answer with its first token.
async fn finish(decode: &DecodeCall, prefill: &PrefillCall) {
    prefill.first(byte_id(b'a'), FinishReason::MaxTokens).await;
    decode.dropped().await;
}

fn of(tenant: &'static str, priority: Priority, max_tokens: u32) -> Ask {
    let request = GenerateRequest {
        max_tokens: Some(max_tokens),
        priority: priority.into(),
        ..text("hello")
    };
    Ask { tenant, request }
}

fn normal(tenant: &'static str, max_tokens: u32) -> Ask {
    of(tenant, Priority::Normal, max_tokens)
}

/// The status that a whole answer does not come with, and when to come back, as both say it.
#[track_caller]
fn retry_after(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let millis = status.metadata().get("retry-after-ms");
    let millis = millis.expect("a time to come back").to_str().unwrap();
    let after = Duration::from_millis(millis.parse().unwrap());
    let details = status.get_details_retry_info();
    assert_eq!(details.unwrap().retry_delay, Some(after));
    after
}

async fn status(answer: &mut Streaming<GenerateResponse>) -> Status {
    within(answer.message()).await.expect_err("no answer")
}

#[tokio::test]
async fn a_request_that_finds_no_room_waits_until_another_one_ends() {
    let mut narrow = Narrow::start(|_| {}).await;
    let mut first = narrow.ask(normal("a", 20)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut second = narrow.ask(normal("a", 21)).await.unwrap();
    narrow.waiting("normal", 1).await;
    finish(&decode, &prefill).await;
    assert_eq!(next(&mut first).await.text, "a");
    assert_eq!(narrow.serve().await, 21);
    assert_eq!(next(&mut second).await.text, "a");
    narrow.waiting("normal", 0).await;
    let metrics = narrow.coordinator.metrics_text();
    let waited = "lava_coordinator_wait_seconds_count 1";
    assert!(metrics.lines().any(|line| line == waited), "{metrics}");
    narrow.coordinator.flights_ended().await;
}

#[tokio::test]
async fn a_flood_of_one_tenant_does_not_keep_another_waiting() {
    const FLOOD: usize = 24;
    let mut narrow = Narrow::start(|_| {}).await;
    let _running = narrow.ask(normal("flood", 20)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut answers = Vec::new();
    for _ in 0..FLOOD {
        answers.push(narrow.ask(normal("flood", 20)).await.unwrap());
    }
    narrow.waiting("normal", FLOOD).await;
    for _ in 0..3 {
        answers.push(narrow.ask(normal("quiet", 21)).await.unwrap());
    }
    narrow.waiting("normal", FLOOD + 3).await;
    finish(&decode, &prefill).await;
    let mut order = Vec::new();
    for _ in 0..FLOOD + 3 {
        order.push(narrow.serve().await);
    }
    // Turn by turn, although all of the flood came first.
    let quiet = order[..6].iter().filter(|of| **of == 21).count();
    assert_eq!(quiet, 3, "{order:?}");
}

#[tokio::test]
async fn a_heavier_tenant_gets_more_turns() {
    let mut narrow = Narrow::start(|config| {
        let tenants = &mut config.admission.tenants;
        tenants.entry("heavy".to_owned()).or_default().weight = Some(3);
    })
    .await;
    let _running = narrow.ask(normal("light", 40)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut answers = Vec::new();
    for (tenant, max_tokens) in [("light", 40), ("heavy", 41)] {
        for _ in 0..12 {
            answers.push(narrow.ask(normal(tenant, max_tokens)).await.unwrap());
        }
    }
    narrow.waiting("normal", 24).await;
    finish(&decode, &prefill).await;
    let mut heavy = 0;
    for _ in 0..12 {
        heavy += usize::from(narrow.serve().await == 41);
    }
    assert!((8..=10).contains(&heavy), "{heavy} of 12, expected 9");
}

#[tokio::test]
async fn the_most_urgent_request_goes_first() {
    let mut narrow = Narrow::start(|_| {}).await;
    let _running = narrow.ask(normal("a", 20)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut answers = Vec::new();
    for (priority, name, max_tokens) in [
        (Priority::Low, "low", 21),
        (Priority::Unspecified, "normal", 22),
        (Priority::High, "high", 23),
    ] {
        answers.push(narrow.ask(of("a", priority, max_tokens)).await.unwrap());
        narrow.waiting(name, 1).await;
    }
    finish(&decode, &prefill).await;
    for expected in [23, 22, 21] {
        assert_eq!(narrow.serve().await, expected);
    }
}

#[tokio::test]
async fn a_full_queue_is_refused_at_once_with_a_time_to_come_back() {
    let mut narrow = Narrow::start(|config| config.admission.waiting_max = 1).await;
    let _running = narrow.ask(normal("a", 20)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut waits = narrow.ask(normal("a", 21)).await.unwrap();
    narrow.waiting("normal", 1).await;
    for (count, tenant) in [(1, "a"), (2, "b")] {
        let mut refused = narrow.ask(normal(tenant, 22)).await.unwrap();
        let status = status(&mut refused).await;
        assert_eq!(retry_after(&status), Duration::from_secs(1));
        assert_eq!(
            status.message(),
            "other requests wait for room already; the queue of 1 is full; try again later"
        );
        narrow.refusals("queue_full", count).await;
    }
    // A more urgent one gets the place.
    let mut urgent = narrow.ask(of("a", Priority::High, 23)).await.unwrap();
    let pushed_out = status(&mut waits).await;
    retry_after(&pushed_out);
    narrow.refusals("pushed_out", 1).await;
    finish(&decode, &prefill).await;
    assert_eq!(narrow.serve().await, 23);
    next(&mut urgent).await;
}

#[tokio::test]
async fn where_nobody_may_wait_a_request_that_finds_no_room_is_refused_at_once() {
    let mut narrow = Narrow::start(|config| config.admission.waiting_max = 0).await;
    let _running = narrow.ask(normal("a", 20)).await.unwrap();
    let _calls = narrow.next_calls().await;
    let mut refused = narrow.ask(normal("a", 21)).await.unwrap();
    let status = status(&mut refused).await;
    assert_eq!(retry_after(&status), Duration::from_secs(1));
    assert_eq!(
        status.message(),
        "no decode worker has a slot and enough free pages; try again later"
    );
    narrow.refusals("busy", 1).await;
}

#[tokio::test]
async fn over_quota_is_refused_with_the_time_after_which_it_would_pass() {
    let mut narrow = Narrow::start(|config| {
        let tenants = &mut config.admission.tenants;
        let team = tenants.entry("team".to_owned()).or_default();
        (team.tokens_per_second, team.tokens_burst) = (Some(10), Some(100));
    })
    .await;
    let ask = |max_tokens| Ask {
        tenant: "team",
        request: GenerateRequest {
            prompt: Some(Prompt {
                form: Some(prompt::Form::Tokens(TokenIds { ids: vec![9; 20] })),
            }),
            max_tokens: Some(max_tokens),
            ..text("")
        },
    };
    let mut first = narrow.ask(ask(60)).await.unwrap();
    // 20 are left, and what a little time gives.
    let status = narrow.ask(ask(60)).await.unwrap_err();
    let after = retry_after(&status);
    assert!(
        after <= Duration::from_secs(6) && after > Duration::from_secs(3),
        "{after:?}"
    );
    let violations = status.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "tenant:team");
    narrow.refusals("over_quota_tokens", 1).await;

    let never = narrow.ask(ask(81)).await.unwrap_err();
    assert_eq!(never.code(), Code::ResourceExhausted);
    assert_eq!(never.metadata().get("retry-after-ms"), None);
    assert_eq!(
        never.message(),
        "the request may need 101 tokens (prompt and max_tokens, times n), and tenant team may use 100 at once; ask for fewer"
    );
    // Others are none the worse.
    drop(narrow.ask(normal("a", 60)).await.unwrap());

    // It used 21 tokens and gets 59 back.
    narrow.serve().await;
    assert_eq!(next(&mut first).await.tokens.len(), 1);
    assert!(next(&mut first).await.finish.is_some());
    narrow.coordinator.flights_ended().await;
    let _second = narrow.ask(ask(50)).await.unwrap();
}

#[tokio::test]
async fn a_tenant_has_a_bounded_number_of_answers_under_way_or_waiting() {
    let mut narrow = Narrow::start(|config| {
        config.admission.tenant_default.flights_max = Some(2);
    })
    .await;
    let _running = narrow.ask(normal("a", 20)).await.unwrap();
    let _calls = narrow.next_calls().await;
    let waits = narrow.ask(normal("a", 20)).await.unwrap();
    narrow.waiting("normal", 1).await;
    let status = narrow.ask(normal("a", 20)).await.unwrap_err();
    retry_after(&status);
    assert_eq!(
        status.message(),
        "tenant a has 2 answers under way or waiting and asks for 1 more, expected at most 2 together; try again later"
    );
    narrow.refusals("over_quota_flights", 1).await;
    let _other = narrow.ask(normal("b", 20)).await.unwrap();
    narrow.waiting("normal", 2).await;
    drop(waits);
    narrow.waiting("normal", 1).await;
    narrow
        .coordinator
        .metric("lava_coordinator_flights 2")
        .await;
    let _again = narrow.ask(normal("a", 20)).await.unwrap();
}

#[tokio::test]
async fn whoever_leaves_while_it_waits_leaves_nothing_and_holds_nobody_up() {
    let mut narrow = Narrow::start(|_| {}).await;
    let running = narrow.ask(normal("a", 20)).await.unwrap();
    let (decode, _prefill) = narrow.next_calls().await;
    let leaves = narrow.ask(normal("a", 21)).await.unwrap();
    narrow.waiting("normal", 1).await;
    let mut stays = narrow.ask(normal("a", 22)).await.unwrap();
    narrow.waiting("normal", 2).await;
    drop(leaves);
    narrow.waiting("normal", 1).await;
    drop(running);
    decode.dropped().await;
    assert_eq!(narrow.serve().await, 22);
    next(&mut stays).await;
    narrow.coordinator.flights_ended().await;
    narrow.waiting("normal", 0).await;
}

#[tokio::test]
async fn the_wait_is_bounded_and_leaves_half_of_the_time_for_the_answer() {
    let mut narrow = Narrow::start(|_| {}).await;
    let _running = narrow.ask(normal("a", 20)).await.unwrap();
    let _calls = narrow.next_calls().await;
    let mut hurried = Request::new(text("hello"));
    hurried.set_timeout(Duration::from_secs(2));
    let answer = within(narrow.coordinator.client().generate(hurried)).await;
    let began = std::time::Instant::now();
    let status = status(&mut answer.unwrap().into_inner()).await;
    assert!(
        began.elapsed() < Duration::from_millis(1900),
        "{:?}",
        began.elapsed()
    );
    retry_after(&status);
    let message = status.message();
    assert!(message.contains("it has waited for 1 s"), "{message}");
    narrow.refusals("waited_out", 1).await;
    narrow
        .coordinator
        .metric("lava_coordinator_flights 1")
        .await;
}

#[tokio::test]
async fn a_drain_ends_those_who_wait_and_serves_those_who_run() {
    let mut narrow = Narrow::start(|_| {}).await;
    let mut running = narrow.ask(normal("a", 20)).await.unwrap();
    let (decode, prefill) = narrow.next_calls().await;
    let mut waits = narrow.ask(normal("a", 21)).await.unwrap();
    narrow.waiting("normal", 1).await;
    narrow.coordinator.shutdown.trigger();
    let expected = (
        Code::Unavailable,
        "the coordinator is shutting down".to_owned(),
    );
    assert_eq!(failure(&mut waits).await, expected);
    finish(&decode, &prefill).await;
    next(&mut running).await;
    within(&mut narrow.coordinator.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn names_and_priorities_that_are_none_are_refused() {
    let narrow = Narrow::start(|_| {}).await;
    let status = narrow.ask(normal("two words", 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "x-lava-tenant is no name of 1 to 64 letters, digits, dots, dashes and underscores"
    );
    let mut odd = normal("a", 20);
    odd.request.priority = 7;
    let status = narrow.ask(odd).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "priority is 7, expected 1 (low), 2 (normal), 3 (high), or 0 for normal"
    );
}
