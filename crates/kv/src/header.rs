//! What is shipped, and for whom.

use std::fmt;

use crate::chain::Chain;
use crate::error::WireError;

/// Version of everything in this crate that two processes must agree on.
pub const WIRE_VERSION: u32 = 1;

/// The right to ship one cache into one reservation: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub [u8; 16]);

impl fmt::Debug for Ticket {
    /// The first four bytes: enough to follow a ticket through logs, too little to use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Ticket({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// How the elements of key and value rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowDtype {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
}

impl RowDtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// The shape of a compact cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// L.
    pub layers: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// N, at most `u32::MAX`.
    pub tokens: usize,
    /// Rows of the window in every table: `min(W, N)`.
    pub window_rows: usize,
    /// How rows are stored.
    pub dtype: RowDtype,
}

impl CacheShape {
    /// L * Hkv.
    pub fn tables(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Bytes of the key rows (or the value rows) of `rows` entries.
    pub fn half_bytes(&self, rows: usize) -> usize {
        rows * self.head_dim * self.dtype.bytes()
    }

    /// Bytes of `rows` entries, keys and values.
    pub fn row_bytes(&self, rows: usize) -> usize {
        2 * self.half_bytes(rows)
    }

    /// Bytes of the whole prompt's cache.
    pub fn full_bytes(&self) -> usize {
        self.row_bytes(self.tables() * self.tokens)
    }

    /// Bytes of a position on the wire.
    pub(crate) fn position_bytes(&self) -> usize {
        if self.tokens <= 1 << 16 { 2 } else { 4 }
    }

    /// New rows of `new` (row indices of one table) that carry a position.
    pub(crate) fn positioned(&self, first: usize, rows: usize) -> usize {
        (first + rows).saturating_sub(self.window_rows.max(first))
    }
}

/// Begins a transfer. Both ends make their own; they must agree in every field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The reservation that the cache goes to.
    pub ticket: Ticket,
    /// Number of the request's attempt.
    pub attempt: u32,
    /// Hash of the prompt's ids.
    pub prompt_digest: [u8; 16],
    /// Hash of the model as the sender runs it.
    pub fingerprint: [u8; 16],
    /// Shape of the cache.
    pub shape: CacheShape,
}

impl Header {
    /// Compares what a sender says with what the holder of the ticket expects.
    ///
    /// # Errors
    /// Names the first field that differs: the sender mixed up requests, models or releases.
    pub fn check(&self, expected: &Header) -> Result<(), WireError> {
        if self.ticket != expected.ticket {
            return Err(WireError::ForeignTicket {
                found: self.ticket,
                expected: expected.ticket,
            });
        }
        if self.attempt != expected.attempt {
            return Err(WireError::StaleAttempt {
                found: self.attempt,
                expected: expected.attempt,
            });
        }
        if self.fingerprint != expected.fingerprint {
            return Err(WireError::ForeignModel);
        }
        if self.prompt_digest != expected.prompt_digest {
            return Err(WireError::ForeignPrompt);
        }
        if self.shape != expected.shape {
            return Err(WireError::Shape {
                found: self.shape,
                expected: expected.shape,
            });
        }
        Ok(())
    }

    /// Where the checksums of this transfer begin.
    pub(crate) fn chain(&self) -> Chain {
        let shape = &self.shape;
        let mut bytes = Vec::with_capacity(96);
        bytes.extend(WIRE_VERSION.to_le_bytes());
        bytes.extend(self.ticket.0);
        bytes.extend(self.attempt.to_le_bytes());
        bytes.extend(self.prompt_digest);
        bytes.extend(self.fingerprint);
        for number in [
            shape.layers,
            shape.kv_heads,
            shape.head_dim,
            shape.tokens,
            shape.window_rows,
        ] {
            bytes.extend((number as u64).to_le_bytes());
        }
        bytes.push(match shape.dtype {
            RowDtype::F16 => 1,
            RowDtype::Bf16 => 2,
            RowDtype::F32 => 3,
        });
        Chain::begin(&bytes)
    }
}
