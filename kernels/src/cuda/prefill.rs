//! Causal attention of a prompt's tokens.

use bytemuck::{Pod, Zeroable, bytes_of};

use super::{Address, Compute, Launch, check_head_dim};

const THREADS: u32 = 128;
/// Queries of a block.
const QUERIES: usize = 64;

/// `softmax(q kᵀ / sqrt(D)) v` of consecutive tokens over all keys up to their own: what
/// [`causal_attention`](crate::causal_attention) computes.
#[derive(Clone, Copy, Debug)]
pub struct PrefillAttention {
    /// Of all inputs and the output.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// G.
    pub group: usize,
    /// T, at least 1.
    pub rows: usize,
    /// Position of the first query.
    pub first_position: usize,
    /// `[T, Hq, D]`.
    pub queries: Address,
    /// `[first position + T, Hkv, D]`.
    pub keys: Address,
    /// `[first position + T, Hkv, D]`.
    pub values: Address,
    /// `[T, Hq, D]`.
    pub out: Address,
    /// `f32` `[T, Hq]`: the logarithm of the sum of `exp(logit)`, which the window's scores need.
    pub log_sums: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrefillParameters {
    queries: Address,
    keys: Address,
    values: Address,
    out: Address,
    log_sums: Address,
    rows: u32,
    first_position: u32,
    kv_heads: u32,
    group: u32,
}

impl PrefillAttention {
    /// One launch.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let parameters = PrefillParameters {
            queries: self.queries,
            keys: self.keys,
            values: self.values,
            out: self.out,
            log_sums: self.log_sums,
            rows: self.rows as u32,
            first_position: self.first_position as u32,
            kv_heads: self.kv_heads as u32,
            group: self.group as u32,
        };
        Launch {
            kernel: format!("prefill_{}_{}", self.compute.name(), self.head_dim),
            grid: [
                self.rows.div_ceil(QUERIES) as u32,
                (self.kv_heads * self.group) as u32,
                1,
            ],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}
