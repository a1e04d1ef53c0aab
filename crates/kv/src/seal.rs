//! The end of a transfer, and the answer to it.

use crate::chain::Chain;

/// Says what a whole cache consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Frames of the transfer.
    pub frames: u32,
    /// Over header, all payloads and the other fields of the seal.
    pub checksum: u64,
    /// Rows of each table, L * Hkv.
    pub rows: Vec<u32>,
    /// The answer's first token, which the receiver appends.
    pub first_token: u32,
}

impl Seal {
    pub(crate) fn new(chain: Chain, frames: u32, rows: Vec<u32>, first_token: u32) -> Self {
        let mut seal = Self {
            frames,
            checksum: 0,
            rows,
            first_token,
        };
        seal.checksum = seal.checksum_after(chain);
        seal
    }

    /// What the checksum must be after the frames that `chain` covers.
    pub(crate) fn checksum_after(&self, chain: Chain) -> u64 {
        let numbers = [self.frames, self.first_token];
        let bytes: Vec<u8> = numbers
            .iter()
            .chain(&self.rows)
            .flat_map(|number| number.to_le_bytes())
            .collect();
        chain.next(&bytes).checksum()
    }
}

/// The receiver has the whole cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Rows of all tables.
    pub rows: u64,
    /// Checksum of the seal.
    pub checksum: u64,
}
