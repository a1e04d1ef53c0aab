//! What LAVa reads of a layer: how much the last W queries look at each earlier token, and the
//! largest value row of each KV head (LAVa, arXiv 2509.09754, section 4; order of operations as in
//! the authors' released code).

use rayon::prelude::*;

use crate::gemm::{Strided, product_transposed};
use crate::lanes;
use crate::prefill::AttentionShape;
use crate::vectorised::vectorised;

/// Keys of one inner step.
const KEY_TILE: usize = 512;

/// Mean over the window's rows of the causal softmax over all N keys, for the n = N - W columns
/// before the window. `shape.queries` is W.
///
/// `q` `[W, Hq, D]`, `k` `[N, Hkv, D]`, `out` `[Hq, n]`; f32, contiguous. Two passes over the keys,
/// one for the normalisers and one for the means, so that `[Hq, W, N]` never exists.
pub fn window_mean_attention(out: &mut [f32], q: &[f32], k: &[f32], shape: &AttentionShape) {
    shape.check(q, k);
    let n = shape.first_position();
    assert_eq!(out.len(), shape.q_heads * n);
    if n == 0 {
        return;
    }
    out.par_chunks_mut(n)
        .enumerate()
        .for_each_init(Head::default, |head, (g, out)| {
            head.load(q, g, shape);
            head.normalise(k, g / shape.group(), shape);
            head.average(out, k, g / shape.group(), shape);
        });
}

/// Largest L1 norm of a value row, per KV head: `out[h] = max_i sum_c |v[i, h, c]|` over the first
/// `rows` tokens of `v` `[N, Hkv, D]`.
pub fn value_norms(v: &[f32], rows: usize, kv_heads: usize, head_dim: usize) -> Vec<f32> {
    assert!(v.len() >= rows * kv_heads * head_dim);
    let mut out = vec![0.0f32; kv_heads];
    vectorised!({
        for token in v.chunks_exact(kv_heads * head_dim).take(rows) {
            for (norm, row) in out.iter_mut().zip(token.chunks_exact(head_dim)) {
                *norm = norm.max(lanes::abs_sum(row));
            }
        }
    });
    out
}

/// One query head's window rows.
#[derive(Default)]
struct Head {
    queries: Vec<f32>,
    scores: Vec<f32>,
    row_max: Vec<f32>,
    row_sum: Vec<f32>,
}

impl Head {
    fn load(&mut self, q: &[f32], g: usize, s: &AttentionShape) {
        let d = s.head_dim;
        let scale = 1.0 / (d as f32).sqrt();
        self.queries.clear();
        for token in q.chunks_exact(s.q_heads * d) {
            self.queries
                .extend(token[g * d..(g + 1) * d].iter().map(|x| x * scale));
        }
        self.scores.resize(s.queries * KEY_TILE, 0.0);
        self.row_max.clear();
        self.row_max.resize(s.queries, f32::NEG_INFINITY);
        self.row_sum.clear();
        self.row_sum.resize(s.queries, 0.0);
    }

    /// Scores of all window rows against keys `start..start + keys`, `[W, keys]`.
    fn score(&mut self, k: &[f32], h: usize, start: usize, keys: usize, s: &AttentionShape) {
        let queries = Strided::dense(&self.queries, s.queries, s.head_dim);
        let keys_view = s.head_rows(k, h, start, keys);
        product_transposed(&mut self.scores[..s.queries * keys], queries, keys_view);
    }

    /// Running maximum and sum of each row over all its visible keys.
    fn normalise(&mut self, k: &[f32], h: usize, s: &AttentionShape) {
        for start in (0..s.keys).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(s.keys - start);
            self.score(k, h, start, keys, s);
            vectorised!({
                let rows = self.scores.chunks_exact_mut(keys).take(s.queries);
                for (row, scores) in rows.enumerate() {
                    let end = s.first_position() + row + 1;
                    let seen = &mut scores[..end.saturating_sub(start).min(keys)];
                    if seen.is_empty() {
                        continue;
                    }
                    let old = self.row_max[row];
                    let new = lanes::max(seen).max(old);
                    let sum = lanes::exp_and_sum(seen, new);
                    let before = if old == f32::NEG_INFINITY {
                        0.0
                    } else {
                        self.row_sum[row] * crate::exp::exp_nonpositive(old - new)
                    };
                    self.row_max[row] = new;
                    self.row_sum[row] = before + sum;
                }
            });
        }
    }

    fn average(&mut self, out: &mut [f32], k: &[f32], h: usize, s: &AttentionShape) {
        let n = s.first_position();
        out.fill(0.0);
        for start in (0..n).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(n - start);
            self.score(k, h, start, keys, s);
            let out = &mut out[start..start + keys];
            vectorised!({
                let rows = self.scores.chunks_exact_mut(keys).take(s.queries);
                for (row, scores) in rows.enumerate() {
                    lanes::exp_and_sum(scores, self.row_max[row]);
                    let weight = 1.0 / (self.row_sum[row] * s.queries as f32);
                    lanes::add_scaled(out, weight, scores);
                }
            });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    /// Deterministic q, k, v for a shape, with logits of a few units.
    pub(crate) fn inputs(s: &AttentionShape, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut x = seed;
        let mut fill = |len: usize, scale: f32| -> Vec<f32> {
            (0..len)
                .map(|_| {
                    x = x
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    ((x >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
                })
                .collect()
        };
        let kv = s.keys * s.kv_heads * s.head_dim;
        (
            fill(s.queries * s.q_heads * s.head_dim, 3.0),
            fill(kv, 2.0),
            fill(kv, 1.0),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_window_means_agree_with_the_reference(
            window in 1usize..40, before in 0usize..1200, kv_heads in 1usize..4,
            group in 1usize..5, half_dim in 1usize..20, seed in any::<u64>(),
        ) {
            let shape = AttentionShape {
                queries: window, keys: before + window, q_heads: kv_heads * group, kv_heads,
                head_dim: 2 * half_dim,
            };
            let (q, k, _) = inputs(&shape, seed);
            let mut out = vec![0.0; shape.q_heads * before];
            window_mean_attention(&mut out, &q, &k, &shape);
            for (fast, slow) in out.iter().zip(reference::window_mean_attention(&q, &k, &shape)) {
                prop_assert!((*fast as f64 - slow).abs() < 1e-6 + 1e-5 * slow, "{fast} != {slow}");
            }
        }
    }

    #[test]
    fn a_value_norm_is_the_largest_row_sum_of_its_head() {
        let v = [1.0, -2.0, 0.5, 0.5, -4.0, 1.0, 0.0, 9.0];
        assert_eq!(value_norms(&v, 2, 2, 2), vec![5.0, 9.0]);
        assert_eq!(value_norms(&v, 1, 2, 2), vec![3.0, 1.0]);
        assert_eq!(value_norms(&v, 0, 2, 2), vec![0.0, 0.0]);
    }
}
