//! What a flight wants done, and how it ends.

use std::time::Duration;

use lava_proto::v1::{FinishReason, Token, TransferStats};

use super::Ticket;
use crate::admission::Crowded;
use crate::placement::{NoPlace, Scarce};
use crate::status::WorkerFailure;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Wait for the turn to look for a place, for at most [`Flight::wait_max`] since the first of these.
    Wait { attempt: u32 },
    /// Find workers, apart from [`Flight::shunned`], and say so.
    Place { attempt: u32 },
    /// Wait before the next [`Action::Place`].
    Pause {
        attempt: u32,
        pause: Duration,
        before: Before,
    },
    /// Call the decode worker.
    OpenDecode { attempt: u32 },
    /// Call the prefill worker.
    OpenPrefill {
        attempt: u32,
        ticket: Ticket,
        link_address: String,
    },
    /// Show these to the client.
    Emit(Vec<Token>),
    /// End both calls.
    DropAttempt,
    /// Say when the statistics are late.
    AwaitStats { attempt: u32 },
    /// It is over.
    End(Result<Answered, FlightError>),
}

/// What a pause comes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Another attempt, which counts against the process's budget of retries.
    Retry,
    /// Another look for a place.
    Look,
    /// The same, at once if room appears: it goes before those who were not let in.
    Room,
}

/// An answer that is whole. A stop string met in its last tokens replaces the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answered {
    pub(crate) reason: FinishReason,
    pub(crate) stats: TransferStats,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlightError {
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    #[error("{}; try again later", crowd_and_room(crowded, *scarce))]
    Crowded {
        crowded: Crowded,
        /// What it found too little of, if it has looked.
        scarce: Option<Scarce>,
    },
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    #[error("the deadline passed before the answer was whole")]
    DeadlinePassed,
    #[error("the client ended the call")]
    ClientGone,
    #[error("the coordinator is shutting down")]
    Draining,
    #[error("the coordinator is shutting down and the answer took too long")]
    Shutdown,
}

fn crowd_and_room(crowded: &Crowded, scarce: Option<Scarce>) -> String {
    match scarce {
        Some(scarce) => format!("{scarce}; {crowded}"),
        None => format!("other requests wait for room already; {crowded}"),
    }
}
