//! Why a transfer ended before its receipt.

use lava_kv::{UnknownRowFormat, WireError};
use tonic::Status;

/// The sender's view.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The receiver cannot be reached, or the connection broke.
    #[error("the link to the decode worker broke: {}", .0.message())]
    Link(Status),
    /// The receiver refused: no such ticket, a damaged transfer, another model.
    #[error("the decode worker refused the cache: {}", .0.message())]
    Refused(Status),
    /// The address is not one.
    #[error("{address:?} is not an address to ship to, expected host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// Time is up.
    #[error("the transfer was not finished at the request's deadline")]
    Deadline,
    /// The sender's own prefill ended before the seal.
    #[error("the prefill ended before its cache was sealed")]
    Unfinished,
    /// The receiver answered what it must not.
    #[error("the decode worker answered {found}, expected {expected}")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What was due.
        expected: &'static str,
    },
}

/// The receiver's view.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The transfer is damaged, stale or foreign.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sender comes from a release with other formats.
    #[error(transparent)]
    RowFormat(#[from] UnknownRowFormat),
    /// A field has another length.
    #[error("{field} has {found} bytes, expected {expected}")]
    FieldLen {
        /// Which.
        field: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The right one.
        expected: usize,
    },
    /// A message out of turn.
    #[error("the sender sent {found}, expected {expected}")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What was due.
        expected: &'static str,
    },
    /// The sender does not wait for leave.
    #[error("the sender sent a frame without credit")]
    OverCredit,
    /// The stream ended before the seal.
    #[error("the stream ended before its seal")]
    Cut,
    /// The connection broke.
    #[error("the link from the prefill worker broke: {}", .0.message())]
    Link(Status),
}
