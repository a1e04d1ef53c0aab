//! What a flight takes in.

use std::time::Duration;

use lava_proto::v1::{FinishReason, Token, TransferStats};

use crate::admission::Crowded;
use crate::placement::{NoPlace, Placement};
use crate::status::WorkerFailure;

/// What happened. Events of workers carry the number of the attempt that they belong to; those of an
/// attempt that is over change nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// After an [`Action::Wait`]: it may look for a place.
    Turn { attempt: u32 },
    /// Or it may not wait, or not any longer.
    Crowded { attempt: u32, crowded: Crowded },
    /// An [`Action::Place`] found workers.
    Placed { attempt: u32, at: Placement },
    /// It did not. `time_left` is the request's.
    NotPlaced {
        attempt: u32,
        why: NoPlace,
        time_left: Duration,
    },
    /// An [`Action::Pause`] is over.
    PauseOver { attempt: u32 },
    /// Room may have appeared before an [`Action::Pause`] that comes before room is over. So much of it
    /// was `left`.
    Room { attempt: u32, left: Duration },
    /// The process has made too many retries of late for another one.
    RetryDenied { attempt: u32 },
    /// From the decode worker's call.
    Decode { attempt: u32, event: DecodeEvent },
    /// From the prefill worker's call.
    Prefill { attempt: u32, event: PrefillEvent },
    /// Nothing came for as long as [`Flight::silence_max`] says.
    Silence { attempt: u32 },
    /// The statistics did not come in time.
    StatsLate { attempt: u32 },
    /// A stop string was met in what was emitted.
    StopStringMet,
    /// The client ended its call.
    ClientGone,
    /// The request's time is up.
    DeadlinePassed,
    /// The process begins to end, and lets nobody in any more.
    Draining,
    /// The drain's time is up.
    Shutdown,
}

impl Event {
    /// The bad end of a worker's call, if it is one.
    pub(crate) fn failure(&self) -> Option<&WorkerFailure> {
        match self {
            Event::Decode {
                event: DecodeEvent::Failed(failure),
                ..
            }
            | Event::Prefill {
                event: PrefillEvent::Failed(failure),
                ..
            } => Some(failure),
            _ => None,
        }
    }

    /// Whether it is a sign of life of the workers, or begins a stage of theirs.
    pub(crate) fn is_news(&self) -> bool {
        matches!(
            self,
            Event::Placed { .. } | Event::Decode { .. } | Event::Prefill { .. }
        )
    }
}

/// From a decode worker's call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DecodeEvent {
    /// `ticket` opens the worker's link at `link_address`, host:port.
    Reserved {
        ticket: Ticket,
        link_address: String,
    },
    /// The answer goes on.
    Tokens(Vec<Token>),
    /// It has the cache and made the first step: its part of the statistics.
    FirstStep(TransferStats),
    /// The answer ended.
    Done(FinishReason),
    /// The call ended badly.
    Failed(WorkerFailure),
}

/// From a prefill worker's call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PrefillEvent {
    /// It has taken the prompt in.
    Accepted,
    /// The answer's next token, and the reason if it is the last one.
    FirstToken {
        token: Token,
        finish: Option<FinishReason>,
    },
    /// The decode worker has the cache.
    Done(TransferStats),
    /// The call ended badly.
    Failed(WorkerFailure),
}

/// Who has it may ship a cache, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) [u8; 16]);
