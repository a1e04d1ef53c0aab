//! What goes wrong with a request, whose fault it is, and which gRPC status says so. The only file
//! that makes a [`Status`].

use std::error::Error;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelValue;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admission::{Crowd, OverQuota};
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
    /// Its tenant has used up what it may.
    #[error(transparent)]
    OverQuota(#[from] OverQuota),
    /// This process is full.
    #[error("{flights_max} answers are under way or waiting, which is the most; try again later")]
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
    queue_full,
    wait_too_long,
    waited_out,
    pushed_out,
    over_quota_flights,
    over_quota_tokens,
    over_burst,
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
            Refusal::Flight(FlightError::Crowded { crowded, .. }) => match crowded.why {
                Crowd::NobodyMayWait => Reason::busy,
                Crowd::Full { .. } => Reason::queue_full,
                Crowd::TooSlow { .. } => Reason::wait_too_long,
                Crowd::PushedOut => Reason::pushed_out,
                Crowd::WaitedOut { .. } => Reason::waited_out,
            },
            Refusal::OverQuota(OverQuota::Flights { .. }) => Reason::over_quota_flights,
            Refusal::OverQuota(OverQuota::Tokens { .. }) => Reason::over_quota_tokens,
            Refusal::OverQuota(OverQuota::TooLarge { .. }) => Reason::over_burst,
            Refusal::Flight(FlightError::Worker(_)) => Reason::worker,
            Refusal::Flight(FlightError::DeadlinePassed) => Reason::deadline,
            Refusal::Flight(FlightError::ClientGone) => Reason::client_gone,
            Refusal::Flight(FlightError::Shutdown | FlightError::Draining) | Refusal::Draining => {
                Reason::draining
            }
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
                Reason::busy
                | Reason::queue_full
                | Reason::wait_too_long
                | Reason::waited_out
                | Reason::pushed_out
                | Reason::over_quota_flights
                | Reason::over_quota_tokens
                | Reason::over_burst
                | Reason::too_many_flights => Code::ResourceExhausted,
                Reason::deadline => Code::DeadlineExceeded,
                Reason::client_gone => Code::Cancelled,
                Reason::worker | Reason::bug => Code::Internal,
            },
        }
    }

    /// When the same request may be taken in.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::Flight(FlightError::Crowded { crowded, .. }) => Some(crowded.retry_after),
            Refusal::OverQuota(OverQuota::Tokens { after, .. }) => Some(*after),
            Refusal::OverQuota(OverQuota::TooLarge { .. }) => None,
            _ => (self.code() == Code::ResourceExhausted).then_some(RETRY_AFTER_TIME),
        }
    }

    /// The status that the client gets. When to come back is in it twice: in the details that gRPC's
    /// libraries know (`google.rpc.RetryInfo`), and as a number that needs none.
    pub(crate) fn status(&self) -> Status {
        let (code, message) = (self.code(), self.to_string());
        let retry_after = self.retry_after();
        let over = match self {
            Refusal::OverQuota(over) => Some(over),
            _ => None,
        };
        if retry_after.is_none() && over.is_none() {
            return Status::new(code, message);
        }
        let mut details = ErrorDetails::new();
        let mut metadata = MetadataMap::new();
        if let Some(after) = retry_after {
            // Rounded up: a moment too early is refused again.
            let millis = after.as_micros().div_ceil(1000);
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            details.set_retry_info(Some(Duration::from_millis(millis)));
            let value = millis.to_string().parse::<MetadataValue<_>>();
            metadata.insert(RETRY_AFTER, value.expect("digits are a header value"));
        }
        if let Some(over) = over {
            details.add_quota_failure_violation(format!("tenant:{}", over.tenant()), &message);
        }
        Status::with_error_details_and_metadata(code, message, details, metadata)
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

    /// Whether it broke by itself, and not only because its time was up.
    pub(crate) fn is_quick(&self) -> bool {
        self.kind == FailureKind::Broken && self.code != Code::DeadlineExceeded
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
    use crate::admission::{Rate, Tenant};
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
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
        let status = Refusal::from(NoPlace::NoWorkers).status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn whoever_is_over_quota_is_told_which_and_when_it_would_pass() {
        let tenant = Tenant::named("team-a").unwrap();
        let rate = Rate {
            per_second: 10,
            burst: 100,
        };
        let after = Duration::from_micros(1_200_001);
        let over = OverQuota::Tokens {
            tenant: tenant.clone(),
            cost: 70,
            rate,
            after,
        };
        let status = Refusal::from(over).status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_AFTER).unwrap(), "1201");
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(1201)));
        let quota = status.get_details_quota_failure().unwrap();
        assert_eq!(quota.violations[0].subject, "tenant:team-a");
        assert_eq!(quota.violations[0].description, status.message());

        let cost = 101;
        let never = OverQuota::TooLarge { tenant, cost, rate };
        let status = Refusal::from(never).status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.metadata().get(RETRY_AFTER).is_none());
        assert!(status.get_details_retry_info().is_none());
        assert!(status.get_details_quota_failure().is_some());
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
