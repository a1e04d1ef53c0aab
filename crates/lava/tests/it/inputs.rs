//! Inputs that the Python scripts in `tests/data` build too, to the last bit.

use lava::Method;
use lava::reference::{Layer, Observed};
use lava::scores::Observation;

/// The generator of `reference.py`.
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 12-bit steps in `[-1, 1)`, exact in `f32`.
    pub(crate) fn tensor(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| (self.next() >> 52) as f32 / 2048.0 - 1.0)
            .collect()
    }
}

/// `toy_model` of `reference.py`.
pub(crate) struct ToyModel {
    size: ToySize,
    layers: Vec<[Vec<f32>; 3]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ToySize {
    pub(crate) layers: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) tokens: usize,
    pub(crate) head_dim: usize,
}

/// Drift that neighbouring queries of a layer share, so that entropies differ.
const SHARP: [f32; 4] = [8.0, 1.0, 4.0, 2.0];

impl ToyModel {
    pub(crate) fn new(seed: u64, size: ToySize) -> ToyModel {
        let mut random = SplitMix64(seed);
        let of_head = size.tokens * size.head_dim;
        let layer = |layer: usize| {
            let mut queries = random.tensor(size.query_heads * of_head);
            let drift = random.tensor(size.query_heads * size.head_dim);
            for (i, q) in queries.iter_mut().enumerate() {
                *q += drift[i / of_head * size.head_dim + i % size.head_dim] * SHARP[layer % 4];
            }
            let keys = random.tensor(size.kv_heads * of_head);
            let mut values = random.tensor(size.kv_heads * of_head);
            for (i, v) in values.iter_mut().enumerate() {
                *v *= 1.0 + (i / of_head) as f32 / 8.0;
            }
            [queries, keys, values]
        };
        ToyModel {
            size,
            layers: (0..size.layers).map(layer).collect(),
        }
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        self.layers.iter().map(|[queries, keys, values]| Layer {
            queries,
            keys,
            values,
            query_heads: self.size.query_heads,
            kv_heads: self.size.kv_heads,
            head_dim: self.size.head_dim,
        })
    }
}

/// What the oracle observed, rounded to `f32`: what the engine gives.
pub(crate) struct Rounded {
    query_heads: usize,
    kv_heads: usize,
    mean: Vec<f32>,
    variance: Vec<f32>,
    max: Vec<f32>,
    entropy: f64,
    rows: usize,
    value_norms: Vec<f32>,
    value_outputs: Vec<f32>,
}

impl Rounded {
    pub(crate) fn new(observed: &Observed) -> Rounded {
        let round = |xs: &[f64]| xs.iter().map(|&x| x as f32).collect();
        Rounded {
            query_heads: observed.query_heads,
            kv_heads: observed.kv_heads,
            mean: round(&observed.mean),
            variance: round(&observed.variance),
            max: round(&observed.max),
            entropy: observed.entropy,
            rows: observed.rows,
            value_norms: round(&observed.value_norms),
            value_outputs: round(&observed.value_outputs),
        }
    }

    pub(crate) fn observation(&self) -> Observation<'_> {
        Observation {
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            mean: &self.mean,
            variance: &self.variance,
            max: &self.max,
            entropy: self.entropy,
            rows: self.rows,
            value_norms: &self.value_norms,
            value_outputs: &self.value_outputs,
        }
    }
}

/// An observation of the mean alone, by the window of `method`.
pub(crate) fn mean_only<'a>(
    method: &Method,
    mean: &'a [f32],
    query_heads: usize,
    value_norms: &'a [f32],
) -> Observation<'a> {
    Observation {
        query_heads,
        kv_heads: value_norms.len(),
        mean,
        variance: &[],
        max: &[],
        entropy: 0.0,
        rows: method.config.window,
        value_norms,
        value_outputs: &[],
    }
}

/// FNV-1a, 64 bits, as the scripts print it.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let hash = bytes
        .into_iter()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
    format!("{hash:016x}")
}

/// [`fnv`] of positions as little-endian `u32`.
pub(crate) fn fnv_positions(positions: &[u32]) -> String {
    fnv(positions.iter().flat_map(|position| position.to_le_bytes()))
}
