//! Decode attention of a batch on a GPU.

use bytemuck::{Pod, Zeroable, bytes_of};
use lava_kv::RowFormat;

use super::{Address, Compute, Launch, PoolPlace, check_head_dim, served_as};

/// Rows of a piece, which one block looks at.
const PIECE_ROWS: usize = 256;
/// Queries that look together.
const QUERIES: usize = 8;
const THREADS: u32 = 128;

/// `softmax(q kᵀ / sqrt(D)) v` of each sequence over its own rows, in one layer: what
/// [`decode_attention`](crate::decode_attention) computes.
#[derive(Clone, Copy, Debug)]
pub struct DecodeStep {
    /// How the caches' rows are stored; not [`RowFormat::F32`].
    pub format: RowFormat,
    /// Of queries and output.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// G.
    pub group: usize,
    /// B.
    pub batch: usize,
    /// Index of the layer.
    pub layer: usize,
    /// Where the caches' pages are.
    pub pool: PoolPlace,
    /// [`SequencePlace`](super::SequencePlace) `[B]`.
    pub sequences: Address,
    /// `[B, Hq, D]`, after RoPE.
    pub queries: Address,
    /// `[B, Hq, D]`.
    pub out: Address,
    /// Room for [`partial_bytes`](DecodeStep::partial_bytes).
    pub partials: Address,
    /// At least that of [`pieces`] for every head.
    pub pieces: usize,
}

/// Pieces of a head that has so many wide and packed rows.
pub fn pieces(wide_rows: usize, packed_rows: usize) -> usize {
    wide_rows.div_ceil(PIECE_ROWS) + packed_rows.div_ceil(PIECE_ROWS)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParameters {
    sequences: Address,
    queries: Address,
    pool: PoolPlace,
    partials: Address,
    layer: u32,
    kv_heads: u32,
    group: u32,
    pieces: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MergeParameters {
    sequences: Address,
    partials: Address,
    out: Address,
    layer: u32,
    kv_heads: u32,
    group: u32,
    pieces: u32,
}

impl DecodeStep {
    /// Bytes that [`launches`](DecodeStep::launches) need for what they tell each other.
    pub fn partial_bytes(&self) -> usize {
        4 * self.batch * self.kv_heads * self.pieces * self.group * (2 + self.head_dim)
    }

    /// To be run one after the other.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim or the format.
    pub fn launches(&self) -> [Launch; 2] {
        check_head_dim(self.head_dim);
        let types = format!("{}_{}", self.compute.name(), self.head_dim);
        let heads = (self.batch * self.kv_heads) as u32;
        let attend = DecodeParameters {
            sequences: self.sequences,
            queries: self.queries,
            pool: self.pool,
            partials: self.partials,
            layer: self.layer as u32,
            kv_heads: self.kv_heads as u32,
            group: self.group as u32,
            pieces: self.pieces as u32,
        };
        let merge = MergeParameters {
            sequences: self.sequences,
            partials: self.partials,
            out: self.out,
            layer: self.layer as u32,
            kv_heads: self.kv_heads as u32,
            group: self.group as u32,
            pieces: self.pieces as u32,
        };
        [
            Launch {
                kernel: format!("decode_{}_{types}", served_as(self.format).name()),
                grid: [
                    self.pieces as u32,
                    heads,
                    self.group.div_ceil(QUERIES) as u32,
                ],
                threads: THREADS,
                parameters: bytes_of(&attend).to_vec(),
            },
            Launch {
                kernel: format!("merge_{types}"),
                grid: [heads * self.group as u32, 1, 1],
                threads: self.head_dim as u32,
                parameters: bytes_of(&merge).to_vec(),
            },
        ]
    }
}
