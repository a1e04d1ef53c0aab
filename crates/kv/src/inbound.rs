//! The receiver's side of a transfer.

use crate::chain::Chain;
use crate::error::WireError;
use crate::format::RowFormat;
use crate::frame::Frame;
use crate::header::{CacheShape, Header};
use crate::seal::{Receipt, Seal};
use crate::varint;

/// Checks what arrives. After an error everything received must be dropped.
#[derive(Debug)]
pub struct Inbound {
    shape: CacheShape,
    rows_max: u64,
    chain: Chain,
    sequence: u32,
    layers_done: usize,
    /// Rows received of each table.
    received: Vec<u32>,
    rows: u64,
    payload_bytes: u64,
}

/// What a frame brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived<'a> {
    /// Mean keys of newly finished layers, which the packed rows of their heads are relative to.
    pub means: Vec<Mean<'a>>,
    /// New rows.
    pub groups: Vec<Group<'a>>,
}

/// The mean key of one layer and KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mean<'a> {
    /// `l`.
    pub layer: usize,
    /// `h`.
    pub head: usize,
    /// D numbers in half precision.
    pub bytes: &'a [u8],
}

/// Consecutive new rows of one table, all of one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// `l`.
    pub layer: usize,
    /// `h`.
    pub head: usize,
    /// Index of the first of these rows in its table.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// How they lie.
    pub format: RowFormat,
    /// Key rows: their codes, then their scales.
    pub keys: &'a [u8],
    /// Value rows, likewise.
    pub values: &'a [u8],
    /// Positions of those that are not in the window, as they lie on the wire.
    positions: &'a [u8],
    shape: CacheShape,
}

impl Group<'_> {
    /// The prompt position of each row.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        let shape = self.shape;
        let window = self.rows - self.positions.len() / shape.position_bytes();
        let start = shape.tokens - shape.window_rows + self.first_row;
        let wide = self.positions.chunks_exact(shape.position_bytes());
        (start as u32..).take(window).chain(wide.map(read_position))
    }
}

fn read_position(bytes: &[u8]) -> u32 {
    let mut wide = [0; 4];
    wide[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(wide)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    Some(head)
}

impl Inbound {
    /// Begins a transfer that may bring `rows_max` rows. `found` is what the sender says, `expected`
    /// what the reservation was made for.
    ///
    /// # Errors
    /// See [`Header::check`].
    pub fn new(found: &Header, expected: &Header, rows_max: u64) -> Result<Self, WireError> {
        found.check(expected)?;
        Ok(Self {
            shape: expected.shape,
            rows_max,
            chain: expected.chain(),
            sequence: 0,
            layers_done: 0,
            received: vec![0; expected.shape.tables()],
            rows: 0,
            payload_bytes: 0,
        })
    }

    /// Rows received so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of all payloads so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Checks a whole frame and gives its rows, which go to the ends of their tables.
    ///
    /// # Errors
    /// The frame is not the next one of this transfer, or not as it was sent, or brings more than was
    /// reserved. Nothing of it may be used.
    pub fn accept<'a>(&mut self, frame: &'a Frame) -> Result<Arrived<'a>, WireError> {
        let sequence = frame.sequence;
        if sequence != self.sequence {
            return Err(WireError::OutOfOrder {
                found: sequence,
                expected: self.sequence,
            });
        }
        let chain = self.chain.next(&frame.payload);
        if frame.checksum != chain.checksum() {
            return Err(WireError::Corrupt {
                sequence,
                found: frame.checksum,
                expected: chain.checksum(),
            });
        }
        let malformed = |what| WireError::Malformed { sequence, what };
        let (layers, arrived) = self.parse(&frame.payload).map_err(malformed)?;
        let new: u64 = arrived.groups.iter().map(|group| group.rows as u64).sum();
        if self.rows + new > self.rows_max {
            return Err(WireError::ExceedsReservation {
                sequence,
                rows: self.rows + new,
                rows_max: self.rows_max,
            });
        }
        for group in &arrived.groups {
            self.received[group.layer * self.shape.kv_heads + group.head] += group.rows as u32;
        }
        self.rows += new;
        self.chain = chain;
        self.sequence += 1;
        self.layers_done = layers;
        self.payload_bytes += frame.payload.len() as u64;
        Ok(arrived)
    }

    fn parse<'a>(&self, payload: &'a [u8]) -> Result<(usize, Arrived<'a>), &'static str> {
        let shape = self.shape;
        let mut rest = payload;
        let number = |rest: &mut &[u8]| varint::read(rest).ok_or("a count is cut or too large");
        let layers = number(&mut rest)? as usize;
        if layers > shape.layers || layers < self.layers_done {
            return Err("the number of finished layers is out of range");
        }
        let mut means = Vec::new();
        let mean_bytes = shape.format.mean_bytes(shape.head_dim);
        if mean_bytes > 0 {
            for table in self.layers_done * shape.kv_heads..layers * shape.kv_heads {
                means.push(Mean {
                    layer: table / shape.kv_heads,
                    head: table % shape.kv_heads,
                    bytes: take(&mut rest, mean_bytes).ok_or("mean keys are cut")?,
                });
            }
        }
        let mut groups = Vec::new();
        for table in 0..layers * shape.kv_heads {
            let rows = number(&mut rest)? as usize;
            let first_row = self.received[table] as usize;
            if rows > shape.tokens - first_row {
                return Err("a table has more rows than the prompt has tokens");
            }
            for (format, rows) in shape.split(first_row..first_row + rows) {
                groups.push(Group {
                    layer: table / shape.kv_heads,
                    head: table % shape.kv_heads,
                    first_row: rows.start,
                    rows: rows.len(),
                    format,
                    keys: &[],
                    values: &[],
                    positions: &[],
                    shape,
                });
            }
        }
        let outside = shape.tokens - shape.window_rows;
        for group in &mut groups {
            let count = shape.positioned(group.first_row, group.rows);
            let bytes =
                take(&mut rest, count * shape.position_bytes()).ok_or("positions are cut")?;
            let mut positions = bytes.chunks_exact(shape.position_bytes());
            if positions.any(|position| read_position(position) as usize >= outside) {
                return Err("a position lies in the window or beyond the prompt");
            }
            group.positions = bytes;
        }
        for group in &mut groups {
            let half = group.rows * group.format.entry_bytes(shape.head_dim) / 2;
            group.keys = take(&mut rest, half).ok_or("key rows are cut")?;
            group.values = take(&mut rest, half).ok_or("value rows are cut")?;
        }
        if !rest.is_empty() {
            return Err("there are bytes behind the last row");
        }
        Ok((layers, Arrived { means, groups }))
    }

    /// Checks that the cache is whole.
    ///
    /// # Errors
    /// Frames or rows are missing, or the seal is of another transfer.
    pub fn seal(&self, seal: &Seal) -> Result<Receipt, WireError> {
        let unsealed = |what, found, expected| WireError::Unsealed {
            what,
            found,
            expected,
        };
        if seal.frames != self.sequence {
            let (found, expected) = (seal.frames.into(), self.sequence.into());
            return Err(unsealed("number of frames", found, expected));
        }
        let expected = seal.checksum_after(self.chain);
        if seal.checksum != expected {
            return Err(WireError::CorruptSeal {
                found: seal.checksum,
                expected,
            });
        }
        if seal.rows != self.received {
            let found = seal.rows.iter().map(|&rows| u64::from(rows)).sum();
            return Err(unsealed(
                "number of rows per table, in total",
                found,
                self.rows,
            ));
        }
        if self.layers_done != self.shape.layers {
            let (found, expected) = (self.shape.layers as u64, self.layers_done as u64);
            return Err(unsealed("number of layers", found, expected));
        }
        let window = self.shape.window_rows;
        if let Some(&rows) = self.received.iter().find(|&&rows| (rows as usize) < window) {
            return Err(unsealed("rows of one table", rows.into(), window as u64));
        }
        Ok(Receipt {
            rows: self.rows,
            checksum: seal.checksum,
        })
    }
}
