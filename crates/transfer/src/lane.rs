//! Lanes: a GPU of a prefill worker and one of a decode worker, joined so that payloads go from memory to memory. One lane serves all
//! transfers between two workers, a payload at a time, in an order that the sender announces over gRPC: NCCL has no messages with names,
//! what is sent first is received first.
//!
//! A transfer stays a call of `CacheLink.Ship` with its header, credit, frames, seal and receipt; only payloads go another way. Where a
//! lane breaks, each transfer sends what the receiver does not have yet within its frames, as without a lane.

mod incoming;
mod outgoing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Status;

use crate::fabric::{Fabric, FabricError};

pub use incoming::Lanes;
pub(crate) use incoming::Mailbox;
pub(crate) use outgoing::{OpenLane, Outgoing, Parcel};

/// What a header names a lane by.
pub(crate) type LaneId = [u8; 16];

/// What both ends of lanes need.
#[derive(Clone, Debug)]
pub struct LaneSetup {
    /// What joins GPUs.
    pub fabric: Arc<dyn Fabric>,
    /// Id of this process, another one after each start.
    pub incarnation: String,
    /// For a lane to be opened, and for each payload.
    pub timeout: Duration,
    /// What is counted.
    pub counts: Arc<LaneCounts>,
}

/// What the lanes of a process did so far.
#[derive(Debug, Default)]
pub struct LaneCounts {
    open: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    payload_bytes: AtomicU64,
    fallen_back: AtomicU64,
}

impl LaneCounts {
    /// Lanes that are open.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Lanes that could not be opened.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lanes that ended by a fault.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Bytes of payloads that went over lanes.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Relaxed)
    }

    /// Transfers that began over a lane and went on without it.
    pub fn fallen_back(&self) -> u64 {
        self.fallen_back.load(Ordering::Relaxed)
    }
}

/// An open lane, as long as it is counted as one.
struct Shown(Arc<LaneCounts>);

impl Shown {
    fn new(counts: &Arc<LaneCounts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Why a lane is not there.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// By its configuration, or because it is not on a GPU.
    #[error("this worker takes caches over gRPC only")]
    NoFabric,
    /// Two releases of NCCL.
    #[error("the sender has NCCL {found}, this worker {expected}; only equal ones can be joined")]
    Version {
        /// The sender's.
        found: u32,
        /// This worker's.
        expected: u32,
    },
    /// A bound.
    #[error("{most} lanes are open, which is the most")]
    Full {
        /// The bound.
        most: usize,
    },
    /// A field has another length.
    #[error("{field} has {found} bytes, expected {expected}")]
    FieldLen {
        /// Which.
        field: &'static str,
        /// Its length in bytes.
        found: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// A message out of turn.
    #[error("the other end of the lane sent {found}, expected {expected}")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What was due.
        expected: &'static str,
    },
    /// The other end does not answer.
    #[error("the other end of the lane said nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    /// NCCL's.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The receiver's status, or the connection's.
    #[error("the other end of the lane is gone: {}", .0.message())]
    Peer(Status),
    /// The system gives no random numbers, or no thread.
    #[error("a lane needs {0}, which the system does not give")]
    System(&'static str),
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LaneError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LaneError::System("a thread"))
}
