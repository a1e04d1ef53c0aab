//! What goes wrong with a request, whose fault it is, and which gRPC status says so. The only file
//! that makes a [`Status`].

use std::error::Error;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelValue;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::convert::Invalid;
use crate::flight::FlightError;
use crate::placement::NoPlace;
use crate::snapshot::Role;

/// When a request that found no room may be sent again, in the metadata of the status, milliseconds.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";

/// About as long as the next probe takes to see the room that others leave.
const RETRY_AFTER_TIME: Duration = Duration::from_secs(1);

/// Longest text of somebody else's in a status, in bytes: statuses travel in headers.
const QUOTE_BYTES_MAX: usize = 256;

/// Why a call is refused or ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The client asked for what cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It cannot be placed, now or ever.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// It was placed and ended badly.
    #[error(transparent)]
    Flight(#[from] FlightError),
    /// This process is full.
    #[error("{flights_max} answers are under way, which is the most; try again later")]
    TooManyFlights { flights_max: u32 },
    /// This process ends.
    #[error("the coordinator is shutting down")]
    Draining,
    /// A bug of ours.
    #[error("{0}")]
    Bug(&'static str),
}

/// A call to a worker that ended badly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {role} worker: {message}")]
pub(crate) struct WorkerFailure {
    pub(crate) role: Role,
    pub(crate) kind: FailureKind,
    /// Of the worker's status.
    pub(crate) code: Code,
    /// Of the worker's status, cut to a length that fits a status of ours.
    pub(crate) message: String,
}

/// What a worker's failure means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// It has no room; another worker may have.
    Full,
    /// It, or the way to it, broke; another worker may do.
    Broken,
    /// It would be the same everywhere.
    Final,
}

/// Label of refused calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "the names are the labels as they are scraped"
)]
pub(crate) enum Reason {
    invalid,
    unknown_model,
    no_workers,
    no_row_format,
    too_large,
    busy,
    too_many_flights,
    draining,
    deadline,
    worker,
    client_gone,
    bug,
}

impl Refusal {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Refusal::Invalid(_) => Reason::invalid,
            Refusal::NoPlace(why) | Refusal::Flight(FlightError::NoPlace(why)) => match why {
                NoPlace::UnknownModel { .. } => Reason::unknown_model,
                NoPlace::NoWorkers
                | NoPlace::NoReadyWorkers { .. }
                | NoPlace::NoCompatiblePair { .. } => Reason::no_workers,
                NoPlace::NoRowFormat { .. } => Reason::no_row_format,
                NoPlace::TooLarge { .. } => Reason::too_large,
                NoPlace::Busy(_) => Reason::busy,
            },
            Refusal::Flight(FlightError::Worker(_)) => Reason::worker,
            Refusal::Flight(FlightError::DeadlinePassed) => Reason::deadline,
            Refusal::Flight(FlightError::ClientGone) => Reason::client_gone,
            Refusal::Flight(FlightError::Shutdown) | Refusal::Draining => Reason::draining,
            Refusal::TooManyFlights { .. } => Reason::too_many_flights,
            Refusal::Bug(_) => Reason::bug,
        }
    }

    fn code(&self) -> Code {
        match self {
            Refusal::Flight(FlightError::Worker(failure)) => failure.client_code(),
            _ => match self.reason() {
                Reason::invalid => Code::InvalidArgument,
                Reason::unknown_model => Code::NotFound,
                Reason::no_workers | Reason::draining => Code::Unavailable,
                Reason::no_row_format | Reason::too_large => Code::FailedPrecondition,
                Reason::busy | Reason::too_many_flights => Code::ResourceExhausted,
                Reason::deadline => Code::DeadlineExceeded,
                Reason::client_gone => Code::Cancelled,
                Reason::worker | Reason::bug => Code::Internal,
            },
        }
    }

    /// The status that the client gets.
    pub(crate) fn status(&self) -> Status {
        let code = self.code();
        let mut status = Status::new(code, self.to_string());
        if code == Code::ResourceExhausted {
            let millis = RETRY_AFTER_TIME.as_millis().to_string();
            let value: MetadataValue<_> = millis.parse().expect("digits are a header value");
            status.metadata_mut().insert(RETRY_AFTER, value);
        }
        status
    }
}

impl WorkerFailure {
    /// Classifies the status that a worker's call ended with.
    pub(crate) fn of_status(role: Role, status: &Status) -> WorkerFailure {
        // tonic keeps what broke as the source; a status that the worker sent has none.
        let transport_broke = status.source().is_some();
        let kind = match status.code() {
            Code::ResourceExhausted => FailureKind::Full,
            Code::Unavailable | Code::Aborted | Code::Cancelled | Code::DataLoss => {
                FailureKind::Broken
            }
            _ if transport_broke => FailureKind::Broken,
            _ => FailureKind::Final,
        };
        WorkerFailure {
            role,
            kind,
            code: status.code(),
            message: clipped(status.message()).to_owned(),
        }
    }

    /// The worker ended its stream without a last event, as a process does that is being stopped.
    pub(crate) fn ended_early(role: Role) -> WorkerFailure {
        WorkerFailure {
            role,
            kind: FailureKind::Broken,
            code: Code::Unavailable,
            message: "it ended the call before its last event".to_owned(),
        }
    }

    /// The worker gave no sign of life for as long as its stage may take.
    pub(crate) fn silent(role: Role, message: &'static str) -> WorkerFailure {
        WorkerFailure {
            role,
            kind: FailureKind::Broken,
            code: Code::DeadlineExceeded,
            message: message.to_owned(),
        }
    }

    /// The worker sent what no worker of this release sends.
    pub(crate) fn protocol(role: Role, message: &'static str) -> WorkerFailure {
        WorkerFailure {
            role,
            kind: FailureKind::Final,
            code: Code::Internal,
            message: message.to_owned(),
        }
    }

    /// What the client is told once there are no attempts left.
    fn client_code(&self) -> Code {
        match (self.kind, self.code) {
            (FailureKind::Full, _) => Code::ResourceExhausted,
            (FailureKind::Broken, _) => Code::Unavailable,
            (
                FailureKind::Final,
                Code::InvalidArgument | Code::FailedPrecondition | Code::DeadlineExceeded,
            ) => self.code,
            (FailureKind::Final, _) => Code::Internal,
        }
    }
}

/// The beginning of a text of somebody else's, for quoting it.
pub(crate) fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Scarce;
    use std::io;

    fn failure(status: &Status) -> WorkerFailure {
        WorkerFailure::of_status(Role::Decode, status)
    }

    #[track_caller]
    fn check(status: Status, kind: FailureKind, client: Code) {
        let failure = failure(&status);
        assert_eq!((failure.kind, failure.client_code()), (kind, client));
    }

    #[test]
    fn what_a_worker_says_is_classified_by_who_could_do_better() {
        check(
            Status::resource_exhausted("pool"),
            FailureKind::Full,
            Code::ResourceExhausted,
        );
        for status in [
            Status::unavailable("x"),
            Status::aborted("x"),
            Status::cancelled("x"),
            Status::data_loss("x"),
        ] {
            check(status, FailureKind::Broken, Code::Unavailable);
        }
        for status in [
            Status::invalid_argument("x"),
            Status::failed_precondition("x"),
            Status::deadline_exceeded("x"),
        ] {
            let code = status.code();
            check(status, FailureKind::Final, code);
        }
        check(Status::internal("bug"), FailureKind::Final, Code::Internal);
        check(Status::unknown("bug"), FailureKind::Final, Code::Internal);
    }

    #[test]
    fn a_broken_connection_is_not_a_bug_of_the_worker_whatever_its_code() {
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert_eq!(broken.code(), Code::Unknown);
        check(broken, FailureKind::Broken, Code::Unavailable);
    }

    #[test]
    fn whoever_found_no_room_is_told_when_to_come_back() {
        let status = Refusal::from(NoPlace::Busy(Scarce::DecodeRoom)).status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_AFTER).unwrap(), "1000");
        let status = Refusal::from(NoPlace::NoWorkers).status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn long_texts_of_others_are_cut_at_a_character() {
        let text = "é".repeat(200);
        assert_eq!(clipped(&text).len(), 256);
        assert_eq!(clipped(&format!("x{text}")).len(), 255);
        assert_eq!(
            failure(&Status::internal(text)).to_string().len(),
            "the decode worker: ".len() + 256
        );
    }
}
