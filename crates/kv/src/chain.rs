//! Checksums that include everything before them.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// XXH3 (64 bits) of each part, seeded with the checksum of all parts before it. A changed, missing,
/// repeated or moved part changes all later checksums. It guards against faults, not against forgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u64);

impl Chain {
    pub(crate) fn begin(part: &[u8]) -> Self {
        Self(xxh3_64_with_seed(part, 0))
    }

    pub(crate) fn next(self, part: &[u8]) -> Self {
        Self(xxh3_64_with_seed(part, self.0))
    }

    pub(crate) fn checksum(self) -> u64 {
        self.0
    }
}
