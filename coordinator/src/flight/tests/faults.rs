//! Faults, and what the flight does about them.

use std::collections::BTreeSet;
use std::time::Duration;

use expect_test::expect;
use tonic::Status;

use super::events::{
    accepted, begun, decode_fails, done, first, not_placed, pause_over, placed, plan,
    prefill_fails, reserved, shipped, stepped, token, tokens,
};
use super::{check, check_answering, run, text};
use crate::flight::*;
use crate::snapshot::WorkerId;
use crate::snapshot::samples::id;

/// Workers that broke.
fn broken(flight: &Flight) -> BTreeSet<WorkerId> {
    flight.shunned().broken.keys().cloned().collect()
}

#[test]
fn a_prefill_that_breaks_before_the_first_token_is_repeated_elsewhere() {
    check(
        [
            placed(0),
            reserved(0),
            accepted(0),
            prefill_fails(0, Status::unavailable("gone")),
            first(0, 10),
            pause_over(1),
            placed(1),
            reserved(1),
            tokens(0, &[11]),
            first(1, 10),
        ],
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1

            drop, retry 1

            place 1
            decode 1
            prefill 1 ticket 1 d1:1

            emit [10]
        "#]],
    );
}

#[test]
fn a_lost_decode_worker_costs_a_recompute_and_no_token() {
    let events = begun().into_iter().chain([
        shipped(0),
        tokens(0, &[11, 12]),
        decode_fails(0, Status::unavailable("gone")),
    ]);
    let (mut flight, lines) = run(plan(), events);
    assert!(lines.ends_with("drop, retry 1\n"));
    assert_eq!(flight.emitted(), [10, 11, 12]);
    assert_eq!((flight.tokens_left(), flight.recomputes()), (2, 1));
    assert_eq!(broken(&flight), [id("d0")].into());
    for event in [
        pause_over(1),
        placed(1),
        reserved(1),
        accepted(1),
        first(1, 13),
        shipped(1),
    ] {
        flight.step(event);
    }
    let actions = flight.step(tokens(1, &[14]));
    assert_eq!(actions, [Action::Emit(vec![token(14)])]);
    let actions = flight.step(done(1, FinishReason::MaxTokens));
    assert_eq!(
        text(actions[1].clone()),
        "end FINISH_REASON_MAX_TOKENS shipped 7 step 0 recomputes 1"
    );
}

#[test]
fn a_prefill_lost_after_the_cache_arrived_costs_only_its_statistics() {
    check_answering(
        [
            tokens(0, &[11]),
            prefill_fails(0, Status::unavailable("gone")),
            tokens(0, &[12]),
            done(0, FinishReason::EndOfText),
        ],
        expect![[r#"
            emit [11]

            emit [12]
            drop, end FINISH_REASON_END_OF_TEXT shipped 0 step 0 recomputes 0
        "#]],
    );
}

#[test]
fn a_prefill_lost_before_the_cache_arrived_is_repeated() {
    let events = begun()
        .into_iter()
        .chain([prefill_fails(0, Status::aborted("link"))]);
    let (flight, lines) = run(plan(), events);
    assert!(lines.ends_with("drop, retry 1\n"));
    // Either end of the link may be at fault.
    assert_eq!(broken(&flight), [id("p0"), id("d0")].into());
    assert_eq!(flight.recomputes(), 1);
}

#[test]
fn a_full_worker_is_not_asked_again_and_costs_no_recompute() {
    let full = || Status::resource_exhausted("full");
    let (flight, lines) = run(plan(), [placed(0), decode_fails(0, full())]);
    assert!(lines.ends_with("drop, retry 1\n"));
    assert_eq!(flight.shunned().full, [id("d0")].into());
    let (flight, lines) = run(plan(), [placed(0), reserved(0), prefill_fails(0, full())]);
    assert!(lines.ends_with("drop, retry 1\n"));
    assert_eq!(flight.shunned().full, [id("p0")].into());
    assert!(flight.shunned().broken.is_empty());
    assert_eq!(flight.recomputes(), 0);
}

#[test]
fn attempts_are_counted_and_the_last_failure_is_told() {
    check(
        [
            placed(0),
            reserved(0),
            decode_fails(0, Status::unavailable("one")),
            pause_over(1),
            placed(1),
            reserved(1),
            decode_fails(1, Status::aborted("two")),
            pause_over(2),
            placed(2),
            reserved(2),
            decode_fails(2, Status::cancelled("three")),
        ],
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1
            drop, retry 1
            place 1
            decode 1
            prefill 1 ticket 1 d1:1
            drop, retry 2
            place 2
            decode 2
            prefill 2 ticket 2 d2:1
            drop, end: the decode worker: three
        "#]],
    );
}

/// How many attempts end with this failure of the reservation before the answer does, on workers that take turns.
fn attempts(workers: u32, failure: impl Fn() -> WorkerFailure) -> u32 {
    let (mut flight, _) = run(plan(), []);
    for attempt in 0..100 {
        let Event::Placed { at, .. } = placed(attempt % workers) else {
            unreachable!("it is one");
        };
        let _ = flight.step(Event::Placed { attempt, at });
        let event = DecodeEvent::Failed(failure());
        let actions = flight.step(Event::Decode { attempt, event });
        if matches!(actions.last(), Some(Action::End(_))) {
            return attempt + 1;
        }
        let _ = flight.step(pause_over(attempt + 1));
    }
    panic!("no attempt is the last");
}

#[test]
fn workers_that_cannot_be_reached_cost_no_attempt_until_there_are_too_many() {
    let of_status = |status| WorkerFailure::of_status(Role::Decode, &status);
    let refused = || of_status(Status::unavailable("connection refused"));
    assert_eq!(attempts(100, refused), UNREACHED_MAX + 3);
    assert_eq!(attempts(2, refused), 2 + 3);
    // One took its time, the other was reached.
    let silent = || WorkerFailure::silent(Role::Decode, "no answer");
    assert_eq!(attempts(100, silent), 3);
    let full = || of_status(Status::resource_exhausted("full"));
    assert_eq!(attempts(100, full), 3);
}

#[test]
fn failures_that_would_repeat_are_not_repeated() {
    for status in [
        Status::invalid_argument("no"),
        Status::failed_precondition("no"),
        Status::deadline_exceeded("no"),
        Status::internal("no"),
    ] {
        check(
            [placed(0), decode_fails(0, status)],
            expect![[r#"
                decode 0
                drop, end: the decode worker: no
            "#]],
        );
    }
}

#[test]
fn a_request_that_only_met_full_workers_is_refused_at_once() {
    check(
        [
            placed(0),
            decode_fails(0, Status::resource_exhausted("no pages")),
            pause_over(1),
            not_placed(1, 600_000),
        ],
        expect![[r#"
            decode 0
            drop, retry 1
            place 1
            drop, end: the decode worker: no pages
        "#]],
    );
}

#[test]
fn a_request_that_lost_its_workers_looks_for_a_place_again() {
    check(
        [
            placed(0),
            decode_fails(0, Status::unavailable("gone")),
            not_placed(1, 60_000),
            pause_over(1),
            not_placed(1, 60_000),
            pause_over(1),
            not_placed(1, 60_000),
            placed(1),
            pause_over(1),
            placed(1),
        ],
        expect![[r#"
            decode 0
            drop, retry 1

            place 1
            look again 1
            place 1
            look again 1

            place 1
            decode 1
        "#]],
    );
}

/// Looks until the flight ends, with this much time left at the first look; how long that took together.
fn looks(time_left: Duration) -> (Duration, String) {
    let (mut flight, _) = run(
        plan(),
        [placed(0), decode_fails(0, Status::unavailable("gone"))],
    );
    let mut waited = Duration::ZERO;
    flight.step(pause_over(1));
    loop {
        let left = (time_left - waited).as_millis() as u64;
        match flight.step(not_placed(1, left)).pop() {
            Some(Action::Pause { pause, before, .. }) => {
                assert_eq!(before, Before::Look);
                waited += pause;
                flight.step(pause_over(1));
            }
            end => return (waited, text(end.expect("an end"))),
        }
    }
}

#[test]
fn the_looks_for_a_place_are_bounded_and_end_before_the_deadline() {
    let (waited, end) = looks(Duration::from_secs(600));
    assert!(
        waited > Duration::from_secs(3) && waited <= Duration::from_secs(5),
        "{waited:?}"
    );
    assert_eq!(end, "end: the decode worker: gone");
    let (waited, _) = looks(Duration::from_secs(2));
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}

#[test]
fn what_cannot_pass_is_not_waited_for() {
    let too_large = Event::NotPlaced {
        attempt: 1,
        why: NoPlace::TooLarge {
            pages: 2,
            pages_total: 1,
        },
        time_left: Duration::from_secs(600),
    };
    check(
        [
            placed(0),
            decode_fails(0, Status::unavailable("gone")),
            pause_over(1),
            too_large,
        ],
        expect![[r#"
            decode 0
            drop, retry 1
            place 1
            drop, end: the decode worker: gone
        "#]],
    );
}

#[test]
fn a_full_worker_may_have_room_after_a_pause() {
    let full = Status::resource_exhausted("x");
    let fails = [prefill_fails(0, Status::aborted("x")), pause_over(1)];
    let again = [placed(1), decode_fails(1, full), pause_over(2)];
    let (mut flight, _) = run(plan(), begun().into_iter().chain(fails).chain(again));
    assert_eq!(flight.shunned().full, [id("d1")].into());
    flight.step(not_placed(2, 60_000));
    assert!(flight.shunned().full.is_empty());
}

#[test]
fn a_denied_retry_ends_the_answer_with_its_fault() {
    check(
        [
            placed(0),
            decode_fails(0, Status::unavailable("gone")),
            Event::RetryDenied { attempt: 1 },
        ],
        expect![[r#"
            decode 0
            drop, retry 1
            drop, end: the decode worker: gone
        "#]],
    );
}

#[test]
fn a_silent_worker_costs_the_attempt() {
    let silence = || Event::Silence { attempt: 0 };
    for (events, shunned) in [
        (vec![placed(0)], &["d0"][..]),
        (begun(), &["p0", "d0"]),
        ([begun(), vec![shipped(0)]].concat(), &["d0"]),
        ([begun(), vec![stepped(0)]].concat(), &["d0"]),
    ] {
        let (flight, lines) = run(plan(), events.into_iter().chain([silence()]));
        assert!(lines.ends_with("drop, retry 1\n"), "{lines}");
        let shunned = shunned.iter().map(|name| id(name)).collect();
        assert_eq!(broken(&flight), shunned);
    }
}

#[test]
fn the_deadline_is_split_over_the_stages() {
    let seconds = Duration::from_secs;
    let limits = |events: Vec<Event>, left| run(plan(), events).0.silence_max(seconds(left));
    let pausing = vec![placed(0), decode_fails(0, Status::unavailable("x"))];
    let awaiting = [begun(), vec![done(0, FinishReason::MaxTokens)]].concat();
    for (events, with_much, with_little) in [
        (vec![], None, None),
        (vec![placed(0)], Some(seconds(5)), Some(seconds(2))),
        (vec![placed(0), reserved(0)], None, None),
        (begun(), Some(seconds(30)), Some(seconds(4))),
        (pausing, None, None),
        (awaiting, None, None),
    ] {
        assert_eq!(limits(events.clone(), 600), with_much);
        assert_eq!(limits(events, 8), with_little);
    }
}
