//! What is shipped, and for whom.

use std::fmt;
use std::ops::Range;

use crate::chain::Chain;
use crate::error::WireError;
use crate::format::RowFormat;

/// Version of everything in this crate that two processes must agree on.
pub const WIRE_VERSION: u32 = 2;

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
    /// Rows of the window in every table: `min(W, N)`. They come first.
    pub window_rows: usize,
    /// Rows of a table, from the first, that lie in [`RowFormat::wide`]: the window and pinned rows, and
    /// all N if rows are not packed.
    pub wide_rows: usize,
    /// How the rows behind those lie.
    pub format: RowFormat,
}

impl CacheShape {
    /// L * Hkv.
    pub fn tables(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Bytes of an entry in the wide form.
    pub fn wide_entry_bytes(&self) -> usize {
        self.format.wide().entry_bytes(self.head_dim)
    }

    /// Bytes of the elements of tables that have so many `rows`, without scales and means.
    pub fn element_bytes(&self, rows: impl IntoIterator<Item = usize>) -> usize {
        let (wide, packed) = self.areas(rows);
        let elements = |format: RowFormat| 2 * format.code_bytes(self.head_dim);
        wide * elements(self.format.wide()) + packed * elements(self.format)
    }

    /// Bytes that such tables hold in all.
    pub fn stored_bytes(&self, rows: impl IntoIterator<Item = usize>) -> usize {
        let (wide, packed) = self.areas(rows);
        wide * self.wide_entry_bytes()
            + packed * self.format.entry_bytes(self.head_dim)
            + self.tables() * self.format.mean_bytes(self.head_dim)
    }

    /// Wide and packed rows of tables.
    fn areas(&self, rows: impl IntoIterator<Item = usize>) -> (usize, usize) {
        rows.into_iter().fold((0, 0), |(wide, packed), rows| {
            let in_wide = rows.min(self.wide_rows);
            (wide + in_wide, packed + rows - in_wide)
        })
    }

    /// Bytes of the whole prompt's cache in the wide form.
    pub fn full_bytes(&self) -> usize {
        self.wide_entry_bytes() * self.tables() * self.tokens
    }

    /// Bytes of a position on the wire.
    pub(crate) fn position_bytes(&self) -> usize {
        if self.tokens <= 1 << 16 { 2 } else { 4 }
    }

    /// New rows of `new` (row indices of one table) that carry a position.
    pub(crate) fn positioned(&self, first: usize, rows: usize) -> usize {
        (first + rows).saturating_sub(self.window_rows.max(first))
    }

    /// Consecutive rows of a table, cut where the format changes.
    pub fn split(
        &self,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (RowFormat, Range<usize>)> + use<> {
        let cut = self.wide_rows.clamp(rows.start, rows.end);
        let wide = (self.format.wide(), rows.start..cut);
        let packed = (self.format, cut..rows.end);
        [wide, packed]
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
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
            shape.wide_rows,
        ] {
            bytes.extend((number as u64).to_le_bytes());
        }
        bytes.push(shape.format.number());
        Chain::begin(&bytes)
    }
}
