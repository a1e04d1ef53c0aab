//! Why a worker does not do what it was asked, and the status that says so. The only place where the
//! workers choose one.

use lava_engine::EngineError;
use lava_kv::WireError;
use lava_transfer::{LaneError, ReceiveError, ShipError};
use tonic::{Code, Status};

use crate::stage::Stage;

/// A request that a worker refuses or could not finish. Transient ones (another worker may do better)
/// have the codes `UNAVAILABLE`, `RESOURCE_EXHAUSTED` and `ABORTED`; no others do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field is missing or out of range.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The coordinator placed the request by an old description.
    #[error("the request was placed for another model or build; this worker serves {serves}")]
    OtherModel {
        /// Name of the model here.
        serves: String,
    },
    /// A bound of this worker is reached.
    #[error("{what}: {found}, at most {most}; try another worker or later")]
    Full {
        /// Which bound.
        what: &'static str,
        /// Its value with this request.
        found: u64,
        /// The bound.
        most: u64,
    },
    /// The ticket is none of this worker's.
    #[error("no reservation has this ticket: it was used, given up, or expired")]
    NoReservation,
    /// Nobody waits for the answer.
    #[error("the caller left {stage}")]
    CallerLeft {
        /// Where the request was.
        stage: Stage,
    },
    /// The worker is leaving.
    #[error("the worker is draining and takes nothing new")]
    Draining,
    /// Time is up.
    #[error("the deadline passed {stage}")]
    Deadline {
        /// Where the request was.
        stage: Stage,
    },
    /// The client reads too slowly.
    #[error(
        "the client took nothing for {seconds} s while {events} messages waited; its answer was ended"
    )]
    SlowClient {
        /// How long.
        seconds: u64,
        /// Messages that waited.
        events: usize,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The cache did not arrive.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The cache did not leave.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// No lane can be opened, or one broke.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The engine refused a step of the whole batch.
    #[error("a step of the batch failed: {reason}")]
    Step {
        /// The engine's error.
        reason: String,
    },
    /// A part of the worker is gone.
    #[error("the worker's {part} stopped")]
    Stopped {
        /// Which.
        part: &'static str,
    },
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Receive(error.into())
    }
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Field { .. } => Code::InvalidArgument,
            Self::OtherModel { .. } => Code::Aborted,
            Self::Full { .. } => Code::ResourceExhausted,
            Self::NoReservation => Code::NotFound,
            Self::Draining | Self::Stopped { .. } => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::CallerLeft { .. } => Code::Cancelled,
            Self::SlowClient { .. } => Code::DeadlineExceeded,
            Self::Step { .. } => Code::Internal,
            Self::Engine(error) => engine_code(error),
            Self::Receive(ReceiveError::Wire(WireError::Version { .. })) => {
                Code::FailedPrecondition
            }
            Self::Receive(ReceiveError::Wire(_)) => Code::DataLoss,
            Self::Receive(ReceiveError::Cut | ReceiveError::Link(_)) => Code::Aborted,
            Self::Receive(_) => Code::InvalidArgument,
            Self::Lane(LaneError::NoFabric | LaneError::Version { .. }) => Code::FailedPrecondition,
            Self::Lane(LaneError::Full { .. }) => Code::ResourceExhausted,
            Self::Lane(LaneError::FieldLen { .. } | LaneError::Unexpected { .. }) => {
                Code::InvalidArgument
            }
            Self::Lane(_) => Code::Aborted,
            Self::Ship(ShipError::Deadline) => Code::DeadlineExceeded,
            Self::Ship(_) => Code::Aborted,
        }
    }
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::EmptyPrompt
        | EngineError::PromptTooLong { .. }
        | EngineError::SlidingWindow { .. }
        | EngineError::UnknownToken { .. }
        | EngineError::Sampling { .. }
        | EngineError::Method(_)
        | EngineError::WideRowsOnDevice
        | EngineError::PoolTooSmall { .. } => Code::InvalidArgument,
        EngineError::PoolFull { .. } | EngineError::NoDeviceMemory { .. } => {
            Code::ResourceExhausted
        }
        EngineError::Cancelled { .. } => Code::Cancelled,
        // Another worker's GPU may do.
        EngineError::Device(_) => Code::Unavailable,
        EngineError::NoFiniteLogit | EngineError::NoDevicePages { .. } | EngineError::Candle(_) => {
            Code::Internal
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.to_string())
    }
}
