//! Events of scripts, in short.

use std::time::Duration;

use lava_node::Backoff;
use tonic::Status;

use crate::flight::*;
use crate::snapshot::samples::id;

pub(super) fn plan() -> Plan {
    Plan {
        retry: Retry {
            attempts_max: 3,
            pause: Backoff {
                first: Duration::from_millis(20),
                most: Duration::from_secs(1),
            },
            place_wait_max: Duration::from_secs(5),
            wait_max: Duration::from_secs(10),
            reserve_max: Duration::from_secs(5),
            silence_max: Duration::from_secs(30),
        },
        seed: 0,
        max_tokens: 5,
        capped: false,
        end_of_text: [2].into(),
        stop_token_ids: [9].into(),
        begins_whole_again: false,
    }
}

pub(super) fn token(id: u32) -> Token {
    Token {
        id,
        ..Token::default()
    }
}

pub(super) fn turn(attempt: u32) -> Event {
    Event::Turn { attempt }
}

pub(super) fn crowded(attempt: u32, why: Crowd) -> Event {
    let crowded = Crowded {
        why,
        retry_after: Duration::from_secs(3),
    };
    Event::Crowded { attempt, crowded }
}

/// A look that found every queue full.
pub(super) fn busy(attempt: u32) -> Event {
    Event::NotPlaced {
        attempt,
        why: NoPlace::Busy(Scarce::PrefillQueue),
        time_left: Duration::from_secs(600),
    }
}

pub(super) fn placed(attempt: u32) -> Event {
    let at = Placement {
        prefill: id(&format!("p{attempt}")),
        decode: id(&format!("d{attempt}")),
        pages_max: 1,
        missing_tokens: 1,
    };
    Event::Placed { attempt, at }
}

pub(super) fn not_placed(attempt: u32, time_left_ms: u64) -> Event {
    Event::NotPlaced {
        attempt,
        why: NoPlace::NoWorkers,
        time_left: Duration::from_millis(time_left_ms),
    }
}

pub(super) fn pause_over(attempt: u32) -> Event {
    Event::PauseOver { attempt }
}

fn decode(attempt: u32, event: DecodeEvent) -> Event {
    Event::Decode { attempt, event }
}

fn prefill(attempt: u32, event: PrefillEvent) -> Event {
    Event::Prefill { attempt, event }
}

pub(super) fn reserved(attempt: u32) -> Event {
    let event = DecodeEvent::Reserved {
        ticket: Ticket([attempt as u8; 16]),
        link_address: format!("d{attempt}:1"),
    };
    decode(attempt, event)
}

pub(super) fn accepted(attempt: u32) -> Event {
    prefill(attempt, PrefillEvent::Accepted)
}

pub(super) fn first(attempt: u32, id: u32) -> Event {
    let token = token(id);
    let finish = None;
    prefill(attempt, PrefillEvent::FirstToken { token, finish })
}

pub(super) fn last(attempt: u32, id: u32, reason: FinishReason) -> Event {
    let token = token(id);
    let finish = Some(reason);
    prefill(attempt, PrefillEvent::FirstToken { token, finish })
}

pub(super) fn shipped(attempt: u32) -> Event {
    let stats = TransferStats {
        shipped_bytes: 7,
        ..TransferStats::default()
    };
    prefill(attempt, PrefillEvent::Done(stats))
}

pub(super) fn tokens(attempt: u32, ids: &[u32]) -> Event {
    let tokens = ids.iter().copied().map(token).collect();
    decode(attempt, DecodeEvent::Tokens(tokens))
}

pub(super) fn stepped(attempt: u32) -> Event {
    let stats = TransferStats {
        first_step_ms: 3.0,
        ..TransferStats::default()
    };
    decode(attempt, DecodeEvent::FirstStep(stats))
}

pub(super) fn done(attempt: u32, reason: FinishReason) -> Event {
    decode(attempt, DecodeEvent::Done(reason))
}

pub(super) fn decode_fails(attempt: u32, status: Status) -> Event {
    let failure = WorkerFailure::of_status(Role::Decode, &status);
    decode(attempt, DecodeEvent::Failed(failure))
}

pub(super) fn prefill_fails(attempt: u32, status: Status) -> Event {
    let failure = WorkerFailure::of_status(Role::Prefill, &status);
    prefill(attempt, PrefillEvent::Failed(failure))
}

/// The events up to the first token.
pub(super) fn begun() -> Vec<Event> {
    vec![placed(0), reserved(0), accepted(0), first(0, 10)]
}
