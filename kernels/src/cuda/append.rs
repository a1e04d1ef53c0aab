//! The new rows of a step into the caches of a batch.

use bytemuck::{Pod, Zeroable, bytes_of};
use lava_kv::RowFormat;

use super::{Address, Compute, Launch, PoolPlace, check_head_dim};

const THREADS: u32 = 128;
/// Elements that a thread moves.
const ELEMENTS: usize = 8;

/// One key row and one value row for each (sequence, KV head) of a layer, behind the wide rows that are there.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    /// How the caches' rows are stored; not [`RowFormat::F32`].
    pub format: RowFormat,
    /// Of the new rows.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// B.
    pub batch: usize,
    /// Index of the layer.
    pub layer: usize,
    /// Where the caches' pages are.
    pub pool: PoolPlace,
    /// [`SequencePlace`](super::SequencePlace) `[B]`; `appended` counts the new row already.
    pub sequences: Address,
    /// `[B, Hkv, D]`, after RoPE.
    pub keys: Address,
    /// `[B, Hkv, D]`.
    pub values: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AppendParameters {
    sequences: Address,
    keys: Address,
    values: Address,
    pool: PoolPlace,
    layer: u32,
    kv_heads: u32,
    batch: u32,
    unused: u32,
}

impl Append {
    /// One launch for the whole batch.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim or the format.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let wide = match self.format.wide() {
            RowFormat::F32 => panic!("rows of f32 are for CPUs"),
            wide => wide.name(),
        };
        let parameters = AppendParameters {
            sequences: self.sequences,
            keys: self.keys,
            values: self.values,
            pool: self.pool,
            layer: self.layer as u32,
            kv_heads: self.kv_heads as u32,
            batch: self.batch as u32,
            unused: 0,
        };
        let moved = 2 * self.batch * self.kv_heads * self.head_dim / ELEMENTS;
        Launch {
            kernel: format!("append_{wide}_{}_{}", self.compute.name(), self.head_dim),
            grid: [moved.div_ceil(THREADS as usize) as u32, 1, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}
