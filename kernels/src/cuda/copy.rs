//! Rows between pages and buffers in which they lie as on the wire.

use bytemuck::{Pod, Zeroable, bytes_of};
use lava_kv::RowFormat;

use super::{Address, Launch, PoolPlace, check_head_dim};

const THREADS: u32 = 128;
/// Rows of a block.
const ROWS: usize = 64;

/// Consecutive rows of one area of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RunPlace {
    /// Where its keys begin in the buffer: an even number. Its bytes there are the codes of all keys, their scales,
    /// and the same of values.
    pub offset: u64,
    /// Where the pages of its area begin in the list.
    pub first_page: u32,
    /// Its first row in the area.
    pub first_row: u32,
    /// How many rows.
    pub rows: u32,
    /// Whether they are packed, 0 or 1.
    pub is_packed: u32,
}

/// In which direction rows are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What a decode worker does.
    ToPages,
    /// What a prefill worker does.
    FromPages,
}

/// Copies some runs.
#[derive(Clone, Copy, Debug)]
pub struct CopyRows {
    /// How rows are stored; not [`RowFormat::F32`].
    pub format: RowFormat,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Where to.
    pub direction: Direction,
    /// [`RunPlace`] `[runs]`.
    pub runs: Address,
    /// How many.
    pub run_count: usize,
    /// Rows of the longest.
    pub rows_max: usize,
    /// The sequence's page numbers.
    pub pages: Address,
    /// Where pages are.
    pub pool: PoolPlace,
    /// As on the wire.
    pub buffer: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CopyParameters {
    runs: Address,
    pages: Address,
    pool: PoolPlace,
    buffer: Address,
    head_dim: u32,
    packed_code_bytes: u32,
    to_pages: u32,
    unused: u32,
}

impl CopyRows {
    /// One launch for all runs.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim or the format.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        assert!(self.format != RowFormat::F32, "rows of f32 are for CPUs");
        let parameters = CopyParameters {
            runs: self.runs,
            pages: self.pages,
            pool: self.pool,
            buffer: self.buffer,
            head_dim: self.head_dim as u32,
            packed_code_bytes: self.format.code_bytes(self.head_dim) as u32,
            to_pages: u32::from(self.direction == Direction::ToPages),
            unused: 0,
        };
        Launch {
            kernel: "copy_rows".to_owned(),
            grid: [
                self.rows_max.div_ceil(ROWS) as u32,
                self.run_count as u32,
                1,
            ],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}
