//! A piece of a cache.

use bytes::Bytes;

/// Newly certain rows of the finished layers. The crate's front page says how they lie in `payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From 0.
    pub sequence: u32,
    /// Over header, all payloads before, and this one.
    pub checksum: u64,
    /// Rows and where they belong.
    pub payload: Bytes,
}
