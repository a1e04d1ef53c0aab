//! What workers report while they answer a request: their events, in any order, and what a client gets of them.
//!
//! An input is what the client wants (two bytes), and then what is said: a byte for its kind, and its message.

use lava_coordinator::fuzzing::{Outcome, Said, Taken};
use lava_proto::v1::{FinishReason, GenerateResponse, Token, prompt::Form};
use lava_proto::worker::{self, DecodeEvent, PrefillEvent, decode_event, prefill_event};
use prost::Message as _;
use tonic::{Code, Status};

use crate::cursor::{Cursor, write_part};
use crate::{memory, requests};

const DECODE: u8 = 0;
const PREFILL: u8 = 1;
const DECODE_ENDED: u8 = 2;
const PREFILL_ENDED: u8 = 3;
const SILENCE: u8 = 4;

/// Follows a flight.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let stops: &[&str] = [&[][..], &["ab"], &["b", "abc", "ca"], &["\u{20ac}"]][rest.within(0..=3)];
    let max_tokens = rest.within(1..=40) as u32;
    let taken = taken(stops, max_tokens);
    let mut said = Vec::new();
    while !rest.is_empty() {
        said.extend(one(&mut rest));
    }
    let door = requests::door();
    let most = memory::SLACK_BYTES + 256 * input.len();
    let outcome = memory::within(most, || door.follow(&taken, said));
    let outcome = outcome.expect("the stop strings are short");
    check(&outcome, &taken, stops, max_tokens);
}

fn taken(stops: &[&str], max_tokens: u32) -> Taken {
    let ids = (3..40).collect();
    let mut request = requests::whole(Form::Tokens(lava_proto::v1::TokenIds { ids }));
    request.max_tokens = Some(max_tokens);
    request.stop = stops.iter().map(|&stop| stop.to_owned()).collect();
    request.logprobs = None;
    let taken = requests::door().generate([b"", b""], request);
    taken.expect("a real client's request")
}

fn one(rest: &mut Cursor<'_>) -> Option<Said> {
    let kind = rest.u8();
    let status = |code: u8| Status::new(Code::from_i32(i32::from(code) % 17), "of a worker");
    match kind % 6 {
        DECODE => DecodeEvent::decode(rest.part()).ok().map(Said::Decode),
        PREFILL => PrefillEvent::decode(rest.part()).ok().map(Said::Prefill),
        DECODE_ENDED => Some(Said::DecodeEnded(status(rest.u8()))),
        PREFILL_ENDED => Some(Said::PrefillEnded(status(rest.u8()))),
        SILENCE => Some(Said::Silence),
        _ => Some(Said::StatsLate),
    }
}

/// The flight ends once at most, nothing follows its end, and the client has every token once, with the text that they
/// come to.
fn check(outcome: &Outcome, taken: &Taken, stops: &[&str], max_tokens: u32) {
    let messages = &outcome.messages;
    assert!(
        outcome.ends.len() <= 1,
        "ended {} times",
        outcome.ends.len()
    );
    let has_finish = |message: &GenerateResponse| message.finish.is_some();
    let finishes = messages
        .iter()
        .filter(|message| has_finish(message))
        .count();
    let is_answered = outcome.ends == [Ok(())];
    assert_eq!(finishes, usize::from(is_answered));
    let shown: Vec<u32> = messages
        .iter()
        .flat_map(|m| &m.tokens)
        .map(|t| t.id)
        .collect();
    assert!(
        outcome.emitted.len() <= max_tokens as usize,
        "more than were asked for"
    );
    assert!(
        outcome.emitted.starts_with(&shown),
        "other tokens than the workers made"
    );
    let text: String = messages.iter().map(|message| &*message.text).collect();
    let spoken = requests::text_of(&shown, &taken.silent_ids());
    // The stop string that ends first, as it comes byte by byte.
    let found = (0..=spoken.len()).find_map(|end| {
        let stop = stops
            .iter()
            .filter(|stop| spoken[..].as_bytes()[..end].ends_with(stop.as_bytes()));
        stop.max_by_key(|stop| stop.len())
            .map(|stop| (end - stop.len(), *stop))
    });
    match found {
        Some((start, _)) => assert_eq!(text, spoken[..start]),
        None if is_answered => assert_eq!(text, spoken),
        // What could still become a stop string is held back.
        None => assert!(spoken.starts_with(&text)),
    }
    if !is_answered {
        return;
    }
    assert!(
        found.is_some() || shown == outcome.emitted,
        "tokens were lost"
    );
    let last = messages.last().and_then(|message| message.finish.as_ref());
    let finish = last.expect("the last message has the end");
    let is_stopped = finish.reason() == FinishReason::StopString;
    assert_eq!(is_stopped, found.is_some(), "{finish:?}");
    assert_eq!(finish.stop, found.map_or("", |(_, stop)| stop));
    let usage = finish.usage.expect("it is always there");
    assert_eq!(usage.answer_tokens as usize, shown.len());
    let recomputes = finish.transfer.expect("it is always there").recomputes;
    assert!(recomputes < outcome.attempts, "{recomputes} recomputes");
}

/// Answers that end well, at once, elsewhere, and badly.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let token = |id| Token {
        id,
        ..Token::default()
    };
    let first = |id, finish: FinishReason| {
        let event = prefill_event::Event::FirstToken(worker::FirstToken {
            token: Some(token(id)),
            finish: finish.into(),
        });
        (PREFILL, PrefillEvent { event: Some(event) }.encode_to_vec())
    };
    let shipped = {
        let event = prefill_event::Event::Done(worker::PrefillDone::default());
        (PREFILL, PrefillEvent { event: Some(event) }.encode_to_vec())
    };
    let decode = |event| (DECODE, DecodeEvent { event: Some(event) }.encode_to_vec());
    let reserved = decode(decode_event::Event::Reserved(worker::Reserved {
        ticket: vec![7; 16].into(),
        link_address: String::new(),
        pages: 9,
    }));
    let step = decode(decode_event::Event::FirstStep(worker::FirstStep::default()));
    let tokens = |text: &str| {
        let tokens = text
            .bytes()
            .map(|byte| token(3 + u32::from(byte)))
            .collect();
        decode(decode_event::Event::Tokens(worker::Tokens { tokens }))
    };
    let done = decode(decode_event::Event::Done(worker::DecodeDone {
        reason: FinishReason::MaxTokens.into(),
    }));
    let broken = (DECODE_ENDED, Vec::new());
    let flight = |stops, said: &[&(u8, Vec<u8>)]| {
        let mut out = vec![stops, 20];
        for (kind, message) in said {
            out.push(*kind);
            match *kind {
                DECODE | PREFILL => write_part(&mut out, message),
                // UNAVAILABLE.
                _ => out.push(14),
            }
        }
        out
    };
    let begun = first(100, FinishReason::Unspecified);
    let ended = first(100, FinishReason::EndOfText);
    let (abc, euro) = (tokens("abcab"), tokens("x\u{20ac}y"));
    vec![
        (
            "whole",
            flight(0, &[&reserved, &begun, &shipped, &step, &abc, &euro, &done]),
        ),
        (
            "stopped",
            flight(2, &[&reserved, &begun, &step, &abc, &done, &shipped]),
        ),
        ("short", flight(1, &[&reserved, &ended])),
        (
            "elsewhere",
            flight(
                3,
                &[
                    &reserved, &begun, &shipped, &abc, &broken, &reserved, &begun, &shipped, &euro,
                    &done,
                ],
            ),
        ),
        (
            "early",
            flight(0, &[&reserved, &step, &abc, &begun, &done, &shipped]),
        ),
    ]
}
