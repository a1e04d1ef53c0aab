//! Scripts of events, and what the flight wants done after each.

use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;
use tonic::Status;

use super::*;

mod events;
mod faults;
mod waits;

use events::{
    accepted, begun, busy, crowded, decode_fails, done, first, last, not_placed, pause_over,
    placed, plan, prefill_fails, reserved, shipped, stepped, tokens, turn,
};

fn text(action: Action) -> String {
    match action {
        Action::Wait { attempt } => format!("wait {attempt}"),
        Action::Place { attempt } => format!("place {attempt}"),
        Action::OpenDecode { attempt } => format!("decode {attempt}"),
        Action::OpenPrefill {
            attempt,
            ticket,
            link_address,
        } => format!("prefill {attempt} ticket {} {link_address}", ticket.0[0]),
        Action::Emit(tokens) => {
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            format!("emit {ids:?}")
        }
        Action::Pause {
            attempt,
            before: Before::Retry,
            ..
        } => format!("retry {attempt}"),
        Action::Pause {
            attempt,
            before: Before::Room,
            ..
        } => format!("look again {attempt}, or when there is room"),
        Action::Pause { attempt, .. } => format!("look again {attempt}"),
        Action::DropAttempt => "drop".to_owned(),
        Action::AwaitStats { attempt } => format!("await stats {attempt}"),
        Action::End(Ok(Answered { reason, stats })) => format!(
            "end {} shipped {} step {} recomputes {}",
            reason.as_str_name(),
            stats.shipped_bytes,
            stats.first_step_ms,
            stats.recomputes
        ),
        Action::End(Err(error)) => format!("end: {error}"),
    }
}

/// From its first turn on.
fn run(plan: Plan, events: impl IntoIterator<Item = Event>) -> (Flight, String) {
    let (mut flight, actions) = Flight::new(plan);
    assert_eq!(actions, [Action::Wait { attempt: 0 }]);
    let actions = flight.step(turn(0));
    assert_eq!(actions, [Action::Place { attempt: 0 }]);
    let mut lines = String::new();
    for event in events {
        let actions: Vec<String> = flight.step(event).into_iter().map(text).collect();
        lines += &format!("{}\n", actions.join(", "));
    }
    (flight, lines)
}

#[track_caller]
fn check(events: impl IntoIterator<Item = Event>, expected: Expect) {
    expected.assert_eq(&run(plan(), events).1);
}

/// After the first token.
#[track_caller]
fn check_answering(events: impl IntoIterator<Item = Event>, expected: Expect) {
    let (mut flight, _) = run(plan(), begun());
    let mut lines = String::new();
    for event in events {
        let actions: Vec<String> = flight.step(event).into_iter().map(text).collect();
        lines += &format!("{}\n", actions.join(", "));
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_good_answer_takes_one_attempt() {
    check(
        begun().into_iter().chain([
            shipped(0),
            stepped(0),
            tokens(0, &[11, 12]),
            tokens(0, &[13]),
            done(0, FinishReason::EndOfText),
            Event::ClientGone,
        ]),
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1

            emit [10]


            emit [11, 12]
            emit [13]
            drop, end FINISH_REASON_END_OF_TEXT shipped 7 step 3 recomputes 0

        "#]],
    );
}

#[test]
fn tokens_that_overtake_the_first_one_are_held_back() {
    check(
        [
            placed(0),
            reserved(0),
            tokens(0, &[11]),
            tokens(0, &[12]),
            first(0, 10),
            tokens(0, &[13]),
        ],
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1


            emit [10, 11, 12]
            emit [13]
        "#]],
    );
}

#[test]
fn a_whole_answer_can_overtake_the_first_token() {
    check(
        [
            placed(0),
            reserved(0),
            tokens(0, &[11]),
            done(0, FinishReason::EndOfText),
            first(0, 10),
            shipped(0),
        ],
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1


            emit [10, 11], await stats 0
            drop, end FINISH_REASON_END_OF_TEXT shipped 7 step 0 recomputes 0
        "#]],
    );
}

#[test]
fn holding_back_is_bounded() {
    let wide = Plan {
        max_tokens: 1000,
        ..plan()
    };
    let (mut flight, _) = run(wide, [placed(0), reserved(0)]);
    assert!(flight.wants_decode());
    flight.step(tokens(0, &[5; HELD_TOKENS_MAX]));
    assert!(!flight.wants_decode());
    flight.step(first(0, 10));
    assert!(flight.wants_decode());
}

#[test]
fn the_end_waits_a_moment_for_the_statistics() {
    check_answering(
        [
            tokens(0, &[11]),
            done(0, FinishReason::MaxTokens),
            shipped(0),
        ],
        expect![[r#"
            emit [11]
            await stats 0
            drop, end FINISH_REASON_MAX_TOKENS shipped 7 step 0 recomputes 0
        "#]],
    );
    for late in [
        Event::StatsLate { attempt: 0 },
        Event::DeadlinePassed,
        Event::Shutdown,
        prefill_fails(0, Status::unavailable("x")),
    ] {
        check_answering(
            [tokens(0, &[11]), done(0, FinishReason::MaxTokens), late],
            expect![[r#"
                emit [11]
                await stats 0
                drop, end FINISH_REASON_MAX_TOKENS shipped 0 step 0 recomputes 0
            "#]],
        );
    }
}

#[test]
fn a_first_token_that_ends_the_answer_ends_the_flight() {
    check(
        [
            placed(0),
            reserved(0),
            accepted(0),
            last(0, 2, FinishReason::EndOfText),
            decode_fails(0, Status::cancelled("dropped")),
        ],
        expect![[r#"
            decode 0
            prefill 0 ticket 0 d0:1

            emit [2], drop, end FINISH_REASON_END_OF_TEXT shipped 0 step 0 recomputes 0

        "#]],
    );
}

#[test]
fn an_answer_cut_by_the_context_says_so() {
    let capped = Plan {
        capped: true,
        ..plan()
    };
    let events = begun().into_iter().chain([
        shipped(0),
        tokens(0, &[11, 12, 13, 14]),
        done(0, FinishReason::MaxTokens),
    ]);
    let (_, lines) = run(capped, events);
    assert!(lines.ends_with("drop, end FINISH_REASON_CONTEXT shipped 7 step 0 recomputes 0\n"));
}

#[test]
fn an_answer_that_is_whole_needs_no_worker_to_say_so() {
    let gone = || decode_fails(0, Status::unavailable("gone"));
    for (ids, reason) in [
        (&[11, 12, 13, 14][..], "MAX_TOKENS"),
        (&[2], "END_OF_TEXT"),
        (&[9], "STOP_TOKEN"),
    ] {
        let events = begun()
            .into_iter()
            .chain([shipped(0), tokens(0, ids), gone()]);
        let (_, lines) = run(plan(), events);
        let end = format!("drop, end FINISH_REASON_{reason} shipped 7 step 0 recomputes 0\n");
        assert!(lines.ends_with(&end), "{lines}");
    }
}

#[test]
fn a_stop_string_ends_the_flight() {
    check_answering(
        [
            shipped(0),
            stepped(0),
            tokens(0, &[11]),
            Event::StopStringMet,
        ],
        expect![[r#"


            emit [11]
            drop, end FINISH_REASON_STOP_STRING shipped 7 step 3 recomputes 0
        "#]],
    );
    check_answering(
        [
            tokens(0, &[11]),
            done(0, FinishReason::MaxTokens),
            Event::StopStringMet,
            shipped(0),
        ],
        expect![[r#"
            emit [11]
            await stats 0

            drop, end FINISH_REASON_STOP_STRING shipped 7 step 0 recomputes 0
        "#]],
    );
}

#[test]
fn every_stage_has_an_exit() {
    let exits = [
        (Event::ClientGone, "the client ended the call"),
        (
            Event::DeadlinePassed,
            "the deadline passed before the answer was whole",
        ),
        (
            Event::Shutdown,
            "the coordinator is shutting down and the answer took too long",
        ),
    ];
    let script = || begun().into_iter().chain([shipped(0), tokens(0, &[11])]);
    for (exit, message) in exits {
        for stage in 0..=script().count() {
            let (mut flight, _) = run(plan(), script().take(stage));
            let actions: Vec<String> = flight.step(exit.clone()).into_iter().map(text).collect();
            assert_eq!(actions, ["drop".to_owned(), format!("end: {message}")]);
            assert!(flight.step(exit.clone()).is_empty());
        }
    }
}

#[test]
fn events_out_of_order_are_a_bug_of_the_worker() {
    let decode_bug = "drop, end: the decode worker: it sent an event out of order\n";
    let prefill_bug = "drop, end: the prefill worker: it sent an event out of order\n";
    for (events, expected) in [
        (vec![placed(0), tokens(0, &[1])], decode_bug),
        (vec![placed(0), reserved(0), reserved(0)], decode_bug),
        (
            vec![
                placed(0),
                reserved(0),
                done(0, FinishReason::EndOfText),
                tokens(0, &[1]),
            ],
            decode_bug,
        ),
        (vec![placed(0), reserved(0), shipped(0)], prefill_bug),
        (
            begun().into_iter().chain([first(0, 3)]).collect(),
            prefill_bug,
        ),
    ] {
        let (_, lines) = run(plan(), events);
        assert!(lines.ends_with(expected), "{lines}");
    }
    let events = begun()
        .into_iter()
        .chain([tokens(0, &[11, 12, 13, 14, 15])]);
    let (_, lines) = run(plan(), events);
    assert!(lines.ends_with("it made more tokens than it was asked for\n"));
}

/// Any event, of this attempt, an earlier one or a later one.
fn any_event() -> impl Strategy<Value = Event> {
    let status = |code: u8| match code {
        0 => Status::unavailable("x"),
        1 => Status::resource_exhausted("x"),
        _ => Status::internal("x"),
    };
    (0..27u8, 0..3u32, 0..3u8, vec(0..12u32, 0..4)).prop_map(move |(kind, attempt, code, ids)| {
        match kind {
            0..=2 => placed(attempt),
            3 | 4 => reserved(attempt),
            5 | 6 => first(attempt, 10),
            7 | 8 => tokens(attempt, &ids),
            9 => done(attempt, FinishReason::MaxTokens),
            15 => stepped(attempt),
            10 => shipped(attempt),
            11 => decode_fails(attempt, status(code)),
            12 => prefill_fails(attempt, status(code)),
            13 => accepted(attempt),
            14 => Event::StatsLate { attempt },
            16 => not_placed(attempt, 1000),
            17 | 18 => pause_over(attempt),
            19 => Event::Silence { attempt },
            21 | 22 => turn(attempt),
            23 => busy(attempt),
            24 => crowded(attempt, Crowd::PushedOut),
            25 => Event::Draining,
            26 => Event::Room {
                attempt,
                left: Duration::from_millis(5),
            },
            _ => last(attempt, 2, FinishReason::EndOfText),
        }
    })
}

proptest! {
    /// Workers may say anything in any order: calls are opened in order and at most once an attempt,
    /// what is emitted is remembered, and the flight ends once.
    #[test]
    fn no_order_of_events_breaks_the_rules(events in vec(any_event(), 0..40)) {
        let (mut flight, _) = Flight::new(plan());
        let (mut emitted, mut ends, mut opened) = (Vec::new(), 0, Vec::new());
        let end = [Event::ClientGone, Event::Shutdown];
        for event in [turn(0)].into_iter().chain(events).chain(end) {
            for action in flight.step(event) {
                prop_assert_eq!(ends, 0);
                match action {
                    Action::Emit(tokens) => emitted.extend(tokens.iter().map(|token| token.id)),
                    Action::OpenDecode { attempt } => opened.push((attempt, Role::Decode)),
                    Action::OpenPrefill { attempt, .. } => {
                        prop_assert!(opened.contains(&(attempt, Role::Decode)));
                        opened.push((attempt, Role::Prefill));
                    }
                    Action::End(_) => ends += 1,
                    _ => {}
                }
            }
            prop_assert_eq!(flight.emitted(), &emitted);
        }
        prop_assert_eq!(ends, 1);
        prop_assert!(emitted.len() <= plan().max_tokens as usize);
        let mut unique = opened.clone();
        unique.dedup();
        prop_assert_eq!(opened, unique);
    }
}
