//! Moves a compact cache from a prefill worker to a decode worker over gRPC, with payloads over NCCL where both are on GPUs. It owns the
//! link, the credit and the deadline; what the frames hold and whether they are right is `crates/kv`'s, where the
//! rows come from and go to is the workers'.
//!
//! A transfer is one call of `CacheLink.Ship`: the sender opens with a header, the receiver grants
//! credit, every frame uses up one unit, the seal ends it, the receipt answers it. Neither side holds
//! more than the credit in frames. [`ship`] is the sender's whole side, [`Inbox`] the receiver's.

#![forbid(unsafe_code)]

mod convert;
mod error;
mod fabric;
mod inbox;
mod lane;
mod link;
#[cfg(feature = "cuda")]
mod nccl;
mod ship;

pub use error::{ReceiveError, ShipError};
pub use fabric::{Communicator, Fabric, FabricError, Rank, UNIQUE_ID_BYTES, UniqueId};
pub use inbox::{Inbox, Part};
pub use lane::{LaneCounts, LaneError, LaneSetup, Lanes};
pub use link::{Link, server};
#[cfg(feature = "cuda")]
pub use nccl::NcclFabric;
pub use ship::{Sent, ship};

/// Largest payload of a frame, in bytes: small enough to interleave with other transfers, large enough
/// that its header does not count.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Largest message of a link, in bytes: a payload, or a seal with the counts of 100,000 tables.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (1 << 16);
