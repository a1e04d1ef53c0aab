//! Requests that wait for room, and what ends their wait.

use std::time::Duration;

use expect_test::expect;
use tonic::Status;

use super::events::{
    begun, busy, crowded, decode_fails, first, not_placed, pause_over, placed, plan, reserved, turn,
};
use super::{check, run, text};
use crate::flight::*;

#[test]
fn a_new_request_that_finds_no_room_waits_for_its_turn() {
    check(
        [
            busy(0),
            pause_over(0),
            turn(0),
            busy(0),
            turn(0),
            placed(0),
            turn(0),
        ],
        expect![[r#"
            wait 0

            place 0
            wait 0
            place 0
            decode 0

        "#]],
    );
}

#[test]
fn who_may_not_wait_is_refused_with_what_there_was_too_little_of() {
    for (why, expected) in [
        (
            Crowd::NobodyMayWait,
            "every prefill queue is full; try again later",
        ),
        (
            Crowd::Full { waiting_max: 7 },
            "every prefill queue is full; the queue of 7 is full; try again later",
        ),
        (
            Crowd::TooSlow {
                wait: Duration::from_millis(12_340),
                wait_max: Duration::from_secs(10),
            },
            "every prefill queue is full; some 12.3 s would pass before its turn, and it may wait for 10 s; try again later",
        ),
        (
            Crowd::WaitedOut {
                waited: Duration::from_millis(10_004),
            },
            "every prefill queue is full; it has waited for 10 s; try again later",
        ),
    ] {
        let (_, lines) = run(plan(), [busy(0), crowded(0, why)]);
        assert_eq!(lines, format!("wait 0\ndrop, end: {expected}\n"));
    }
}

#[test]
fn who_has_not_looked_is_told_that_others_wait() {
    let (mut flight, _) = Flight::new(plan());
    let actions = flight.step(crowded(0, Crowd::PushedOut));
    let actions: Vec<String> = actions.into_iter().map(text).collect();
    let why = "other requests wait for room already; its place to wait was needed for another tenant's or a more urgent request; try again later";
    assert_eq!(actions, ["drop".to_owned(), format!("end: {why}")]);
}

#[test]
fn a_drain_ends_those_who_wait_and_nobody_else() {
    check(
        [busy(0), Event::Draining],
        expect![[r#"
            wait 0
            drop, end: the coordinator is shutting down
        "#]],
    );
    for stage in 0..begun().len() {
        let (mut flight, _) = run(plan(), begun().into_iter().take(stage));
        assert!(flight.step(Event::Draining).is_empty());
    }
}

#[test]
fn a_request_that_only_met_full_workers_waits_and_then_asks_them_again() {
    let full = || Status::resource_exhausted("no pages");
    let events = [placed(0), decode_fails(0, full()), pause_over(1), busy(1)];
    let (mut flight, lines) = run(plan(), events);
    assert!(lines.ends_with("place 1\nwait 1\n"), "{lines}");
    assert!(!flight.shunned().full.is_empty());
    flight.step(turn(1));
    assert!(flight.shunned().full.is_empty());
    // What they said says more than how many others wait.
    flight.step(busy(1));
    let actions = flight.step(crowded(1, Crowd::Full { waiting_max: 1 }));
    assert_eq!(text(actions[1].clone()), "end: the decode worker: no pages");
}

#[test]
fn a_request_that_lost_its_workers_looks_again_before_all_who_were_not_let_in() {
    let lost = [decode_fails(0, Status::unavailable("gone")), pause_over(1)];
    let events = begun().into_iter().chain(lost).chain([
        busy(1),
        pause_over(1),
        not_placed(1, 60_000),
        pause_over(1),
        placed(1),
        reserved(1),
        first(1, 11),
    ]);
    let (_, lines) = run(plan(), events);
    let end = "drop, retry 1\nplace 1\nlook again 1, or when there is room\nplace 1\nlook again 1\nplace 1\ndecode 1\nprefill 1 ticket 1 d1:1\nemit [11]\n";
    assert!(lines.ends_with(end), "{lines}");
}

#[test]
fn being_called_early_does_not_use_up_the_time_for_looking() {
    let lost = [decode_fails(0, Status::unavailable("gone")), pause_over(1)];
    let (mut flight, _) = run(plan(), begun().into_iter().chain(lost));
    let attempt = 1;
    // Far more pauses than would fit, each of them cut to nothing.
    for _ in 0..1000 {
        let actions = flight.step(busy(attempt));
        let [Action::Pause { pause, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        let left = pause;
        let actions = flight.step(Event::Room { attempt, left });
        assert_eq!(actions, [Action::Place { attempt }]);
    }
    // And then as many as ever.
    let mut waited = Duration::ZERO;
    while let [Action::Pause { pause, .. }] = flight.step(busy(attempt))[..] {
        waited += pause;
        flight.step(pause_over(attempt));
    }
    assert!(waited > Duration::from_secs(3) && waited <= Duration::from_secs(5));
}

#[test]
fn the_wait_leaves_half_of_the_time_for_the_answer() {
    let (flight, _) = Flight::new(plan());
    assert_eq!(
        flight.wait_max(Duration::from_secs(600)),
        Duration::from_secs(10)
    );
    assert_eq!(
        flight.wait_max(Duration::from_secs(8)),
        Duration::from_secs(4)
    );
}

#[test]
fn a_request_that_waits_can_be_ended() {
    for exit in [Event::ClientGone, Event::DeadlinePassed, Event::Shutdown] {
        let (mut flight, _) = Flight::new(plan());
        let actions = flight.step(exit.clone());
        assert!(matches!(
            actions[..],
            [Action::DropAttempt, Action::End(Err(_))]
        ));
        assert!(flight.step(exit).is_empty());
    }
}
