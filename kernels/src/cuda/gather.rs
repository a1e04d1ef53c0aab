//! The rows that a layer keeps into pages.

use bytemuck::{Pod, Zeroable, bytes_of};
use lava_kv::RowFormat;

use super::{Address, Compute, Launch, PoolPlace, check_head_dim, served_as};

const THREADS: u32 = 128;
/// Rows of a block, one for each warp.
const ROWS: usize = 4;
/// Keys that one thread adds up.
const MEAN_ROWS: usize = 256;

/// The kept rows of a layer out of all its keys and values: wide rows as they are, the others packed, as
/// [`pack_rows`](crate::pack_rows) does.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// How rows are stored; not [`RowFormat::F32`].
    pub format: RowFormat,
    /// Of keys and values.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// `[N, Hkv, D]`.
    pub keys: Address,
    /// `[N, Hkv, D]`.
    pub values: Address,
    /// `u32`: positions of the kept rows, head after head, wide rows first.
    pub positions: Address,
    /// `u32` `[Hkv]`: where those of a head begin.
    pub first_positions: Address,
    /// [`TablePlace`](super::TablePlace) `[Hkv]` of this layer.
    pub tables: Address,
    /// The sequence's page numbers.
    pub pages: Address,
    /// `[Hkv, D]` in half precision: what packed keys of this layer are relative to.
    pub mean_keys: Address,
    /// Where pages are.
    pub pool: PoolPlace,
    /// At least the rows of each head.
    pub rows_max: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GatherParameters {
    keys: Address,
    values: Address,
    positions: Address,
    first_positions: Address,
    tables: Address,
    pages: Address,
    mean_keys: Address,
    pool: PoolPlace,
    kv_heads: u32,
    unused: u32,
}

impl Gather {
    /// One launch for all heads.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim or the format.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let parameters = GatherParameters {
            keys: self.keys,
            values: self.values,
            positions: self.positions,
            first_positions: self.first_positions,
            tables: self.tables,
            pages: self.pages,
            mean_keys: self.mean_keys,
            pool: self.pool,
            kv_heads: self.kv_heads as u32,
            unused: 0,
        };
        let (format, compute) = (served_as(self.format).name(), self.compute.name());
        Launch {
            kernel: format!("gather_{format}_{compute}_{}", self.head_dim),
            grid: [self.rows_max.div_ceil(ROWS) as u32, self.kv_heads as u32, 2],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// The mean key of each head over the prompt, as packed rows are relative to it: [`mean_key`](crate::mean_key).
#[derive(Clone, Copy, Debug)]
pub struct MeanKeys {
    /// Of the keys.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// N, at least 1.
    pub rows: usize,
    /// `[N, Hkv, D]`.
    pub keys: Address,
    /// Room for [`sum_bytes`](MeanKeys::sum_bytes).
    pub sums: Address,
    /// `[Hkv, D]` in half precision.
    pub means: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MeanParameters {
    keys: Address,
    sums: Address,
    means: Address,
    rows: u32,
    kv_heads: u32,
    tiles: u32,
    unused: u32,
}

impl MeanKeys {
    /// Bytes that [`launches`](MeanKeys::launches) need for what they tell each other.
    pub fn sum_bytes(&self) -> usize {
        8 * self.tiles() * self.kv_heads * self.head_dim
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(MEAN_ROWS)
    }

    /// To be run one after the other.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim.
    pub fn launches(&self) -> [Launch; 2] {
        check_head_dim(self.head_dim);
        let parameters = MeanParameters {
            keys: self.keys,
            sums: self.sums,
            means: self.means,
            rows: self.rows as u32,
            kv_heads: self.kv_heads as u32,
            tiles: self.tiles() as u32,
            unused: 0,
        };
        let (tiles, heads) = (self.tiles() as u32, self.kv_heads as u32);
        let types = format!("{}_{}", self.compute.name(), self.head_dim);
        [
            ("sum_keys", [tiles, heads, 1]),
            ("mean_keys", [heads, 1, 1]),
        ]
        .map(|(name, grid)| Launch {
            kernel: format!("{name}_{types}"),
            grid,
            threads: self.head_dim as u32,
            parameters: bytes_of(&parameters).to_vec(),
        })
    }
}
