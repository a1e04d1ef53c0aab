//! What joins two GPUs: NCCL, or in tests something that fails as told.

use std::fmt;
use std::time::Duration;

/// Bytes of a [`UniqueId`].
pub const UNIQUE_ID_BYTES: usize = 128;

/// What two ends find each other by. Whoever makes one waits for the other end; it works once.
pub type UniqueId = [u8; UNIQUE_ID_BYTES];

/// Who an end is. NCCL numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Rank 0, which made the id.
    Sender,
    /// Rank 1.
    Receiver,
}

impl Rank {
    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Self::Sender => 0,
            Self::Receiver => 1,
        }
    }

    /// The number of the other end.
    pub fn peer(self) -> i32 {
        1 - self.number()
    }
}

/// Joins a GPU of this process with those of others. Its calls block.
pub trait Fabric: fmt::Debug + Send + Sync {
    /// Which release it is; only equal ones can be joined.
    fn version(&self) -> u32;

    /// A new id.
    ///
    /// # Errors
    /// The fabric's.
    fn unique_id(&self) -> Result<UniqueId, FabricError>;

    /// Joins the other end, which does the same meanwhile.
    ///
    /// # Errors
    /// The other end did not come in time, or the fabric's.
    fn join(
        &self,
        id: &UniqueId,
        rank: Rank,
        within: Duration,
    ) -> Result<Box<dyn Communicator>, FabricError>;
}

/// One of two ends that are joined. What the one sends is what the other receives, in the same order. After an error it is of no more
/// use; drop aborts whatever is under way. Its calls block.
pub trait Communicator: Send {
    /// Sends bytes, and returns when they have left.
    ///
    /// # Errors
    /// They were not taken in time, or the fabric's.
    fn send(&mut self, payload: &[u8], within: Duration) -> Result<(), FabricError>;

    /// Receives as many bytes as the other end sends next, which must be as many as there is room for.
    ///
    /// # Errors
    /// They did not come in time, or the fabric's.
    fn receive(&mut self, out: &mut [u8], within: Duration) -> Result<(), FabricError>;
}

/// Why a fabric could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FabricError {
    /// The other end is gone, stuck, or slower than anybody should wait for.
    #[error("{doing} took longer than {} ms", .within.as_millis())]
    Timeout {
        /// What was tried.
        doing: &'static str,
        /// For how long.
        within: Duration,
    },
    /// What the fabric says.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// Its own words.
        reason: String,
    },
}
