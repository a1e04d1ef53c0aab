//! What stands between the products of a layer. The residual stream is in f32, what products read and write in 16
//! bits.

use bytemuck::{Pod, Zeroable, bytes_of};

use super::{Address, Compute, Launch, check_head_dim};

const THREADS: u32 = 256;
/// Elements that a thread moves at once; widths are multiples of it.
const EIGHT: usize = 8;
/// Heads of a block, one for each warp.
const HEADS: usize = 8;

fn check_width(width: usize) {
    assert!(
        width.is_multiple_of(EIGHT),
        "a width of {width} is not a multiple of {EIGHT}"
    );
}

/// The residual stream of some tokens.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// Of the table.
    pub compute: Compute,
    /// T.
    pub tokens: usize,
    /// Width of a row, a multiple of 8.
    pub hidden: usize,
    /// `u32` `[T]`, each below V.
    pub ids: Address,
    /// `[V, hidden]`.
    pub table: Address,
    /// `f32` `[T, hidden]`.
    pub x: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EmbedParameters {
    ids: Address,
    table: Address,
    x: Address,
    hidden: u32,
    unused: u32,
}

impl Embed {
    /// One block for each token.
    ///
    /// # Panics
    /// If the width is not a multiple of 8.
    pub fn launch(&self) -> Launch {
        check_width(self.hidden);
        let parameters = EmbedParameters {
            ids: self.ids,
            table: self.table,
            x: self.x,
            hidden: self.hidden as u32,
            unused: 0,
        };
        Launch {
            kernel: format!("embed_{}", self.compute.name()),
            grid: [self.tokens as u32, 1, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// Adds to the residual stream, and normalises it for the next product: [`add`](crate::add) and
/// [`rms_norm`](crate::rms_norm).
#[derive(Clone, Copy, Debug)]
pub struct AddAndNorm {
    /// Of what is added and of what comes out.
    pub compute: Compute,
    /// T.
    pub tokens: usize,
    /// Width of a row, a multiple of 8.
    pub hidden: usize,
    /// Under the root.
    pub epsilon: f32,
    /// `f32` `[T, hidden]`, in and out.
    pub x: Address,
    /// `[T, hidden]`, if something is added.
    pub y: Option<Address>,
    /// `f32` `[hidden]`.
    pub weight: Address,
    /// `[T, hidden]`.
    pub out: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormParameters {
    x: Address,
    y: Address,
    weight: Address,
    out: Address,
    hidden: u32,
    epsilon: f32,
}

impl AddAndNorm {
    /// One block for each row.
    ///
    /// # Panics
    /// If the width is not a multiple of 8.
    pub fn launch(&self) -> Launch {
        check_width(self.hidden);
        let parameters = NormParameters {
            x: self.x,
            y: self.y.unwrap_or(0),
            weight: self.weight,
            out: self.out,
            hidden: self.hidden as u32,
            epsilon: self.epsilon,
        };
        Launch {
            kernel: format!("add_and_norm_{}", self.compute.name()),
            grid: [self.tokens as u32, 1, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// Queries, keys and values out of the product that gives all three: with bias and norm where the family has them,
/// and [turned](crate::rotate_halves) by their positions.
#[derive(Clone, Copy, Debug)]
pub struct SplitHeads {
    /// Of what comes in and out.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hq.
    pub q_heads: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// T.
    pub tokens: usize,
    /// Under the root of the norms.
    pub epsilon: f32,
    /// `[T, (Hq + 2 Hkv) D]`.
    pub projected: Address,
    /// `f32` `[(Hq + 2 Hkv) D]`.
    pub bias: Option<Address>,
    /// `f32` `[D]`.
    pub query_norm: Option<Address>,
    /// `f32` `[D]`.
    pub key_norm: Option<Address>,
    /// `f32` `[T, D / 2]`.
    pub cosines: Address,
    /// `f32` `[T, D / 2]`.
    pub sines: Address,
    /// `[T, Hq, D]`.
    pub queries: Address,
    /// `[T, Hkv, D]`.
    pub keys: Address,
    /// `[T, Hkv, D]`.
    pub values: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadParameters {
    projected: Address,
    bias: Address,
    query_norm: Address,
    key_norm: Address,
    cosines: Address,
    sines: Address,
    queries: Address,
    keys: Address,
    values: Address,
    tokens: u32,
    q_heads: u32,
    kv_heads: u32,
    epsilon: f32,
}

impl SplitHeads {
    /// One warp for each head of each token.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let parameters = HeadParameters {
            projected: self.projected,
            bias: self.bias.unwrap_or(0),
            query_norm: self.query_norm.unwrap_or(0),
            key_norm: self.key_norm.unwrap_or(0),
            cosines: self.cosines,
            sines: self.sines,
            queries: self.queries,
            keys: self.keys,
            values: self.values,
            tokens: self.tokens as u32,
            q_heads: self.q_heads as u32,
            kv_heads: self.kv_heads as u32,
            epsilon: self.epsilon,
        };
        let heads = self.tokens * (self.q_heads + 2 * self.kv_heads);
        Launch {
            kernel: format!("split_heads_{}_{}", self.compute.name(), self.head_dim),
            grid: [heads.div_ceil(HEADS) as u32, 1, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// The gate of the MLP: [`silu_product`](crate::silu_product).
#[derive(Clone, Copy, Debug)]
pub struct SiluProduct {
    /// Of what comes in and out.
    pub compute: Compute,
    /// T.
    pub tokens: usize,
    /// Width of a row, a multiple of 8.
    pub intermediate: usize,
    /// `[T, 2, intermediate]`: gate and up of each token.
    pub gate_up: Address,
    /// `[T, intermediate]`.
    pub out: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateParameters {
    gate_up: Address,
    out: Address,
    tokens: u32,
    intermediate: u32,
}

impl SiluProduct {
    /// Eight elements for each thread.
    ///
    /// # Panics
    /// If the width is not a multiple of 8.
    pub fn launch(&self) -> Launch {
        check_width(self.intermediate);
        let parameters = GateParameters {
            gate_up: self.gate_up,
            out: self.out,
            tokens: self.tokens as u32,
            intermediate: self.intermediate as u32,
        };
        let eights = self.tokens * self.intermediate / EIGHT;
        Launch {
            kernel: format!("silu_product_{}", self.compute.name()),
            grid: [eights.div_ceil(THREADS as usize) as u32, 1, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}
