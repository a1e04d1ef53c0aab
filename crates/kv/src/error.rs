//! Why a transfer is refused.

use crate::header::{CacheShape, Ticket};

/// A part of a transfer that must not be used. Whoever gets one drops what was received so far; the
/// request can be prefilled again, nothing was lost. None is worth a retry of the same transfer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The two processes come from different releases.
    #[error("the sender speaks wire version {found}, this worker {expected}")]
    Version {
        /// The sender's.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The transfer is for another reservation.
    #[error("the transfer is for {found:?}, the reservation is {expected:?}")]
    ForeignTicket {
        /// The sender's.
        found: Ticket,
        /// The reservation's.
        expected: Ticket,
    },
    /// The request was tried again since.
    #[error(
        "the transfer belongs to attempt {found} of the request, the reservation to attempt {expected}"
    )]
    StaleAttempt {
        /// The sender's.
        found: u32,
        /// The reservation's.
        expected: u32,
    },
    /// The cache is of another model, or of the same one run in another way.
    #[error("the transfer's model fingerprint is not the reservation's")]
    ForeignModel,
    /// The cache is of another prompt.
    #[error("the transfer's prompt digest is not the reservation's")]
    ForeignPrompt,
    /// The cache has another shape.
    #[error("the transfer's shape is {found:?}, the reservation's {expected:?}")]
    Shape {
        /// The sender's.
        found: CacheShape,
        /// The reservation's.
        expected: CacheShape,
    },
    /// A frame is missing, came twice, or overtook another.
    #[error("frame {found} arrived where frame {expected} was due")]
    OutOfOrder {
        /// Sequence number that came.
        found: u32,
        /// The one that was due.
        expected: u32,
    },
    /// Bytes changed on the way, or belong to another transfer.
    #[error(
        "frame {sequence} has checksum {found:016x}, its content and all before give {expected:016x}"
    )]
    Corrupt {
        /// The frame.
        sequence: u32,
        /// Its claim.
        found: u64,
        /// What its bytes give.
        expected: u64,
    },
    /// The checksum is right, but the payload is not what its counts say: a bug of the sender.
    #[error("frame {sequence} is malformed: {what}")]
    Malformed {
        /// The frame.
        sequence: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// More rows than were reserved for.
    #[error("frame {sequence} brings the cache to {rows} rows, {rows_max} are reserved")]
    ExceedsReservation {
        /// The frame.
        sequence: u32,
        /// Rows with it.
        rows: u64,
        /// The reservation.
        rows_max: u64,
    },
    /// The seal does not belong to what was received.
    #[error("the seal's {what} is {found}, received were {expected}")]
    Unsealed {
        /// Which count.
        what: &'static str,
        /// The seal's.
        found: u64,
        /// What was received.
        expected: u64,
    },
    /// The seal's bytes changed, or it seals another transfer.
    #[error("the seal has checksum {found:016x}, its content and all frames give {expected:016x}")]
    CorruptSeal {
        /// Its claim.
        found: u64,
        /// What its fields give.
        expected: u64,
    },
}
