//! What the window sees of a layer, and the scores that follow.

use bytemuck::{Pod, Zeroable, bytes_of};

use super::{Address, Compute, Launch, check_head_dim};

const THREADS: u32 = 128;
/// Keys of a block that looks at them.
const KEYS: usize = 64;
/// Rows of a block that takes norms.
const NORM_ROWS: usize = 4;

/// What is taken of the weights that the observing queries give a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Their mean.
    Mean,
    /// The root of their mean square.
    RootMeanSquare,
    /// The largest.
    Largest,
}

/// A statistic of the causal softmax over all N keys, for the last queries and the first `columns` keys: what
/// [`observe`](crate::observe) gives.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Of queries and keys.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// G.
    pub group: usize,
    /// N.
    pub tokens: usize,
    /// Queries that observe, at least 1.
    pub rows: usize,
    /// n, at least 1.
    pub columns: usize,
    /// What is taken.
    pub statistic: Statistic,
    /// `[rows, Hq, D]`, those of the last tokens.
    pub queries: Address,
    /// `[N, Hkv, D]`.
    pub keys: Address,
    /// `f32` `[rows, Hq]`: the logarithm of the sum of `exp(logit)` over the keys that a query sees.
    pub log_sums: Address,
    /// `f32` `[Hq, n]`.
    pub seen: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WindowParameters {
    queries: Address,
    keys: Address,
    log_sums: Address,
    seen: Address,
    rows: u32,
    columns: u32,
    first_position: u32,
    kv_heads: u32,
    group: u32,
    statistic: u32,
}

impl Window {
    /// One look at the keys.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let parameters = WindowParameters {
            queries: self.queries,
            keys: self.keys,
            log_sums: self.log_sums,
            seen: self.seen,
            rows: self.rows as u32,
            columns: self.columns as u32,
            first_position: (self.tokens - self.rows) as u32,
            kv_heads: self.kv_heads as u32,
            group: self.group as u32,
            statistic: match self.statistic {
                Statistic::Mean => 0,
                Statistic::RootMeanSquare => 1,
                Statistic::Largest => 2,
            },
        };
        Launch {
            kernel: format!("window_{}_{}", self.compute.name(), self.head_dim),
            grid: [self.columns.div_ceil(KEYS) as u32, self.kv_heads as u32, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// The largest L1 norm of a value row of each KV head: [`value_norms`](crate::value_norms).
#[derive(Clone, Copy, Debug)]
pub struct ValueNorms {
    /// Of the values.
    pub compute: Compute,
    /// D, one of [`HEAD_DIMS`](super::HEAD_DIMS).
    pub head_dim: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// Rows that count, the first ones.
    pub rows: usize,
    /// `[N, Hkv, D]`.
    pub values: Address,
    /// `f32` `[Hkv]`; zeros before.
    pub norms: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormParameters {
    values: Address,
    norms: Address,
    rows: u32,
    kv_heads: u32,
}

impl ValueNorms {
    /// One look at the values.
    ///
    /// # Panics
    /// If no kernel is compiled for the head dim.
    pub fn launch(&self) -> Launch {
        check_head_dim(self.head_dim);
        let parameters = NormParameters {
            values: self.values,
            norms: self.norms,
            rows: self.rows as u32,
            kv_heads: self.kv_heads as u32,
        };
        Launch {
            kernel: format!("value_norms_{}_{}", self.compute.name(), self.head_dim),
            grid: [
                self.rows.div_ceil(NORM_ROWS) as u32,
                self.kv_heads as u32,
                1,
            ],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}

/// What scores are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Nothing.
    None,
    /// `f32` `[Hkv]`.
    OfHeads(Address),
    /// `f32` `[Hkv, n]`.
    OfEntries(Address),
}

/// Scores of a layer from what its window has seen, as `lava::scores` takes them: pooled by a maximum, scaled and
/// reduced over the group; or pooled, reduced, raised to the head's mean, and scaled.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Hkv.
    pub kv_heads: usize,
    /// G.
    pub group: usize,
    /// n, at least 1.
    pub columns: usize,
    /// Width of the pool, odd.
    pub kernel: usize,
    /// What the pool gives the neighbours of a peak.
    pub shoulder: f32,
    /// What scores are multiplied by.
    pub norms: Norms,
    /// Whether the group's mean is taken and not its largest.
    pub of_mean: bool,
    /// Whether no entry is less than the mean of its head.
    pub clamped: bool,
    /// `f32` `[Hq, n]`.
    pub seen: Address,
    /// `f32` `[Hkv, n]`.
    pub scores: Address,
    /// Room for [`sum_bytes`](Scores::sum_bytes): what blocks tell each other.
    pub pooled_sums: Address,
    /// `f64` `[Hkv · blocks, 2]`, twice [`sum_bytes`](Scores::sum_bytes): parts of the sum S of scores, and of the sum
    /// T of `s ln s`. The entropy of the layer's scores is `ln S - T / S`.
    pub sums: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScoreParameters {
    seen: Address,
    norms: Address,
    scores: Address,
    pooled_sums: Address,
    sums: Address,
    columns: u32,
    kv_heads: u32,
    group: u32,
    reach: u32,
    shoulder: f32,
    of_entries: u32,
    of_mean: u32,
    clamped: u32,
}

impl Scores {
    /// Bytes of one number for each block.
    pub fn sum_bytes(&self) -> usize {
        8 * self.kv_heads * self.blocks()
    }

    fn blocks(&self) -> usize {
        self.columns.div_ceil(THREADS as usize)
    }

    /// To be run one after the other.
    pub fn launches(&self) -> [Launch; 2] {
        let parameters = ScoreParameters {
            seen: self.seen,
            norms: match self.norms {
                Norms::None => 0,
                Norms::OfHeads(norms) | Norms::OfEntries(norms) => norms,
            },
            scores: self.scores,
            pooled_sums: self.pooled_sums,
            sums: self.sums,
            columns: self.columns as u32,
            kv_heads: self.kv_heads as u32,
            group: self.group as u32,
            reach: (self.kernel / 2) as u32,
            shoulder: self.shoulder,
            of_entries: u32::from(matches!(self.norms, Norms::OfEntries(_))),
            of_mean: u32::from(self.of_mean),
            clamped: u32::from(self.clamped),
        };
        ["pool_scores", "finish_scores"].map(|kernel| Launch {
            kernel: kernel.to_owned(),
            grid: [self.blocks() as u32, self.kv_heads as u32, 1],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        })
    }
}
