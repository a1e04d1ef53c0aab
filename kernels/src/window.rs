//! What eviction policies read of a layer: how much the last queries look at each earlier token, the
//! largest value row of each KV head (LAVa, arXiv 2509.09754, section 4; order of operations as in
//! the authors' released code), and how long value rows are behind the output projection.

use rayon::prelude::*;

use crate::gemm::{Strided, product_transposed};
use crate::lanes;
use crate::prefill::AttentionShape;
use crate::vectorised::vectorised;

/// Keys of one inner step.
const KEY_TILE: usize = 512;

/// Which statistics of the observing rows to take besides the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The unbiased variance of each column.
    pub variance: bool,
    /// The largest weight of each column.
    pub max: bool,
    /// The entropy of all weights together.
    pub entropy: bool,
}

/// What the observing rows saw of the first `n` columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// `[Hq, n]`: mean over the rows.
    pub mean: Vec<f32>,
    /// `[Hq, n]`: unbiased variance over the rows, 0 for a single row; empty unless wanted.
    pub variance: Vec<f32>,
    /// `[Hq, n]`: largest over the rows; empty unless wanted.
    pub max: Vec<f32>,
    /// `-SUM A ln(A + 1e-10)` over all heads, rows and the `n` columns; 0 unless wanted.
    pub entropy: f64,
}

/// Statistics of the causal softmax over all N keys, for the last `shape.queries` rows and the first
/// `columns` columns. LAVa's window is W rows and n = N - W columns; H2O looks at all N rows.
///
/// `q` `[rows, Hq, D]`, `k` `[N, Hkv, D]`; f32, contiguous. Two passes over the keys, one for the
/// normalisers and one for the statistics, so that `[Hq, rows, N]` never exists.
///
/// # Panics
/// If a slice is too short for its shape, or there are more columns than keys.
pub fn observe(
    q: &[f32],
    k: &[f32],
    shape: &AttentionShape,
    columns: usize,
    wanted: Wanted,
) -> Observed {
    shape.check(q, k);
    assert!(columns <= shape.keys, "{columns} of {} columns", shape.keys);
    if columns == 0 {
        return Observed::default();
    }
    let heads: Vec<Observed> = (0..shape.q_heads)
        .into_par_iter()
        .map_init(Head::default, |head, g| {
            head.load(q, g, shape);
            head.normalise(k, g / shape.group(), shape);
            head.observe(k, g / shape.group(), shape, columns, wanted)
        })
        .collect();
    let mut all = Observed::default();
    for head in heads {
        all.mean.extend(head.mean);
        all.variance.extend(head.variance);
        all.max.extend(head.max);
        all.entropy += head.entropy;
    }
    all
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

/// The Gram matrices of an output projection: `W_gᵀ W_g` for the `[hidden, D]` block of each query head, so
/// that `vᵀ (W_gᵀ W_g) v` is the squared length of what a value row adds to the residual stream. `weight` is
/// `[hidden, Hq, D]`, the answer `[Hq, D, D]`.
pub fn output_grams(weight: &[f32], q_heads: usize, head_dim: usize) -> Vec<f32> {
    let hidden = weight.len() / (q_heads * head_dim);
    let mut grams = vec![0.0; q_heads * head_dim * head_dim];
    let mut block = vec![0.0; head_dim * hidden];
    for (g, gram) in grams.chunks_exact_mut(head_dim * head_dim).enumerate() {
        for (row, token) in weight.chunks_exact(q_heads * head_dim).enumerate() {
            for c in 0..head_dim {
                block[c * hidden + row] = token[g * head_dim + c];
            }
        }
        let block = Strided::dense(&block, head_dim, hidden);
        product_transposed(gram, block, block);
    }
    grams
}

/// Length of each value row after the output projection, averaged over the query heads of its KV head:
/// `out[h, i] = mean_g || W_g v[i, h] ||_2` for the first `rows` tokens of `v` `[N, Hkv, D]`; `grams` is
/// that of [`output_grams`]. `D^2` operations per row and query head, where the projection itself takes
/// `D · hidden`.
pub fn value_output_norms(
    v: &[f32],
    grams: &[f32],
    rows: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Vec<f32> {
    assert!(v.len() >= rows * kv_heads * head_dim);
    let q_heads = grams.len() / (head_dim * head_dim);
    assert_eq!(q_heads % kv_heads, 0, "Hq is a multiple of Hkv");
    let group = q_heads / kv_heads;
    let mut out = vec![0.0f32; kv_heads * rows];
    if rows == 0 {
        return out;
    }
    out.par_chunks_mut(rows).enumerate().for_each(|(h, out)| {
        let mut products = vec![0.0; KEY_TILE.min(rows) * head_dim];
        for (tile, out) in out.chunks_mut(KEY_TILE).enumerate() {
            let first = tile * KEY_TILE;
            let values = Strided {
                data: &v[(first * kv_heads + h) * head_dim..],
                rows: out.len(),
                cols: head_dim,
                row_stride: kv_heads * head_dim,
            };
            for g in h * group..(h + 1) * group {
                let gram = &grams[g * head_dim * head_dim..][..head_dim * head_dim];
                let gram = Strided::dense(gram, head_dim, head_dim);
                product_transposed(&mut products[..out.len() * head_dim], values, gram);
                vectorised!({
                    for (i, out) in out.iter_mut().enumerate() {
                        let value = &values.data[i * values.row_stride..][..head_dim];
                        let square = lanes::dot(value, &products[i * head_dim..][..head_dim]);
                        *out += square.max(0.0).sqrt() / group as f32;
                    }
                });
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

    /// One head's statistics of the first `columns` columns.
    fn observe(
        &mut self,
        k: &[f32],
        h: usize,
        s: &AttentionShape,
        columns: usize,
        wanted: Wanted,
    ) -> Observed {
        let if_wanted = |wanted: bool| vec![0.0; if wanted { columns } else { 0 }];
        let mut seen = Observed {
            mean: vec![0.0; columns],
            variance: if_wanted(wanted.variance),
            max: if_wanted(wanted.max),
            entropy: 0.0,
        };
        for start in (0..columns).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(columns - start);
            self.score(k, h, start, keys, s);
            let tile = start..start + keys;
            let mean = &mut seen.mean[tile.clone()];
            vectorised!({
                let rows = self.scores.chunks_exact_mut(keys).take(s.queries);
                for (row, weights) in rows.enumerate() {
                    let visible = (s.first_position() + row + 1)
                        .saturating_sub(start)
                        .min(keys);
                    let (weights, hidden) = weights.split_at_mut(visible);
                    lanes::exp_and_sum(weights, self.row_max[row]);
                    if wanted == Wanted::default() {
                        let share = 1.0 / (self.row_sum[row] * s.queries as f32);
                        lanes::add_scaled(&mut mean[..visible], share, weights);
                        continue;
                    }
                    hidden.fill(0.0);
                    let share = 1.0 / self.row_sum[row];
                    weights.iter_mut().for_each(|weight| *weight *= share);
                }
            });
            if wanted == Wanted::default() {
                continue;
            }
            let mut variance = seen.variance.get_mut(tile.clone());
            let mut max = seen.max.get_mut(tile);
            vectorised!({
                for (row, weights) in self.scores.chunks_exact(keys).take(s.queries).enumerate() {
                    welford(mean, variance.as_deref_mut(), weights, row);
                    if let Some(max) = max.as_deref_mut() {
                        for (max, &weight) in max.iter_mut().zip(weights) {
                            *max = if weight > *max { weight } else { *max };
                        }
                    }
                }
                if let Some(variance) = variance {
                    let divisor = 1.0 / (s.queries.max(2) - 1) as f32;
                    variance.iter_mut().for_each(|sum| *sum *= divisor);
                }
            });
            if wanted.entropy {
                let weights = &self.scores[..s.queries * keys];
                seen.entropy -= weights.iter().map(|&a| entropy_term(a)).sum::<f64>();
            }
        }
        seen
    }
}

/// Takes row `row` into the running means and sums of squared deviations (Welford's recurrence, which does
/// not cancel).
#[inline(always)]
fn welford(mean: &mut [f32], squares: Option<&mut [f32]>, weights: &[f32], row: usize) {
    let share = 1.0 / (row + 1) as f32;
    let Some(squares) = squares else {
        for (mean, &weight) in mean.iter_mut().zip(weights) {
            *mean += (weight - *mean) * share;
        }
        return;
    };
    for ((mean, squares), &weight) in mean.iter_mut().zip(squares).zip(weights) {
        let before = weight - *mean;
        *mean += before * share;
        *squares = before.mul_add(weight - *mean, *squares);
    }
}

fn entropy_term(weight: f32) -> f64 {
    let weight = f64::from(weight);
    weight * (weight + 1e-10).ln()
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

    #[track_caller]
    fn check_close(fast: &[f32], slow: &[f64]) {
        assert_eq!(fast.len(), slow.len());
        for (fast, slow) in fast.iter().zip(slow) {
            let error = (f64::from(*fast) - slow).abs();
            // Weights carry the error of an f32 exponential and of a sum over all keys.
            assert!(error < 1e-6 + 1e-5 * slow, "{fast} != {slow}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_statistics_agree_with_the_reference(
            window in 1usize..40, before in 0usize..1200, kv_heads in 1usize..4,
            group in 1usize..5, half_dim in 1usize..20, seed in any::<u64>(), all in any::<bool>(),
        ) {
            // All rows are those of H2O: every column has rows that do not see it.
            let (queries, keys) = match all {
                true => (window + before % 97, window + before % 97),
                false => (window, before + window),
            };
            let shape = AttentionShape {
                queries, keys, q_heads: kv_heads * group, kv_heads, head_dim: 2 * half_dim,
            };
            let columns = keys - window;
            let (q, k, _) = inputs(&shape, seed);
            let slow = reference::observe(&q, &k, &shape, columns);
            let plain = observe(&q, &k, &shape, columns, Wanted::default());
            check_close(&plain.mean, &slow.mean);
            prop_assert!(plain.variance.is_empty() && plain.max.is_empty() && plain.entropy == 0.0);
            let wanted = Wanted { variance: true, max: true, entropy: true };
            let fast = observe(&q, &k, &shape, columns, wanted);
            check_close(&fast.mean, &slow.mean);
            check_close(&fast.max, &slow.max);
            for (fast, slow) in fast.variance.iter().zip(&slow.variance) {
                prop_assert!((f64::from(*fast) - slow).abs() < 1e-8 + 1e-4 * slow, "{fast} != {slow}");
            }
            prop_assert!((fast.entropy - slow.entropy).abs() < 1e-3 + 1e-4 * slow.entropy);
        }

        #[test]
        fn output_norms_agree_with_the_reference(
            rows in 0usize..700, kv_heads in 1usize..4, group in 1usize..4, d in 1usize..40,
            hidden in 1usize..50, seed in any::<u64>(),
        ) {
            let shape = AttentionShape {
                queries: 1, keys: rows + 1, q_heads: kv_heads * group, kv_heads, head_dim: d,
            };
            let (_, _, v) = inputs(&shape, seed);
            let weight_shape = AttentionShape {
                queries: 1, keys: hidden, q_heads: 1, kv_heads: kv_heads * group, head_dim: d,
            };
            // [hidden, Hq, D], as an output projection lies in memory.
            let (_, _, weight) = inputs(&weight_shape, seed ^ 1);
            let grams = output_grams(&weight, kv_heads * group, d);
            let fast = value_output_norms(&v, &grams, rows, kv_heads, d);
            let slow = reference::value_output_norms(&v, &weight, rows, (kv_heads * group, kv_heads), d);
            prop_assert_eq!(fast.len(), slow.len());
            for (fast, slow) in fast.iter().zip(&slow) {
                // A sum of squares in f32 whose terms may cancel.
                prop_assert!((f64::from(*fast) - slow).abs() < 1e-3 + 1e-3 * slow, "{fast} != {slow}");
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
