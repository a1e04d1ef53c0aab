//! Inputs that the Python scripts in `tests/data` build too, to the last bit.

use lava::reference::Layer;

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

/// `toy_model(seed=1)` of `reference.py`.
pub(crate) struct ToyModel {
    layers: Vec<[Vec<f32>; 3]>,
}

impl ToyModel {
    pub(crate) const LAYERS: usize = 4;
    pub(crate) const QUERY_HEADS: usize = 8;
    pub(crate) const KV_HEADS: usize = 2;
    pub(crate) const TOKENS: usize = 200;
    const HEAD_DIM: usize = 16;
    /// Drift that neighbouring queries of a layer share, so that entropies differ.
    const SHARP: [f32; 4] = [8.0, 1.0, 4.0, 2.0];

    pub(crate) fn new() -> ToyModel {
        let mut random = SplitMix64(1);
        let of_head = ToyModel::TOKENS * ToyModel::HEAD_DIM;
        let layers = ToyModel::SHARP.map(|sharp| {
            let mut queries = random.tensor(ToyModel::QUERY_HEADS * of_head);
            let drift = random.tensor(ToyModel::QUERY_HEADS * ToyModel::HEAD_DIM);
            for (i, q) in queries.iter_mut().enumerate() {
                *q += drift[i / of_head * ToyModel::HEAD_DIM + i % ToyModel::HEAD_DIM] * sharp;
            }
            let keys = random.tensor(ToyModel::KV_HEADS * of_head);
            let mut values = random.tensor(ToyModel::KV_HEADS * of_head);
            for (i, v) in values.iter_mut().enumerate() {
                *v *= 1.0 + (i / of_head) as f32 / 8.0;
            }
            [queries, keys, values]
        });
        ToyModel {
            layers: layers.into(),
        }
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        self.layers.iter().map(|[queries, keys, values]| Layer {
            queries,
            keys,
            values,
            query_heads: ToyModel::QUERY_HEADS,
            kv_heads: ToyModel::KV_HEADS,
            head_dim: ToyModel::HEAD_DIM,
        })
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
