//! What eviction policies read of a layer's attention: how much the last queries look at each earlier token
//! (LAVa, arXiv 2509.09754, section 4; order of operations as in the authors' released code).

use std::ops::Range;

use rayon::prelude::*;

use crate::exp::exp_nonpositive;
use crate::gemm::{Strided, product_transposed};
use crate::lanes;
use crate::prefill::AttentionShape;
use crate::vectorised::vectorised;

/// Keys of a tile.
const KEY_TILE: usize = 512;
/// Rows that are observed together: the weights of so many are in memory, of the query heads of one KV head.
const ROWS: usize = 32;

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
/// `q` `[rows, Hq, D]`, `k` `[N, Hkv, D]`; f32, contiguous. One pass over the keys for every [`ROWS`] rows; of
/// `[Hq, rows, N]` only the part of these rows and one KV head exists at a time.
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
    let of_all = |wanted: bool| vec![0.0; if wanted { shape.q_heads * columns } else { 0 }];
    let mut seen = Observed {
        mean: of_all(true),
        variance: of_all(wanted.variance),
        max: of_all(wanted.max),
        entropy: 0.0,
    };
    let mut weights = Weights::default();
    for head in 0..shape.kv_heads {
        for first in (0..shape.queries).step_by(ROWS) {
            let rows = first..(first + ROWS).min(shape.queries);
            weights.load(q, head, rows, shape);
            weights.attend(k, head, shape);
            weights.add_to(&mut seen, head, columns, wanted, shape);
        }
    }
    let divisor = 1.0 / (shape.queries.max(2) - 1) as f32;
    seen.variance.iter_mut().for_each(|sum| *sum *= divisor);
    seen
}

/// The softmax of some rows, for the G query heads of one KV head.
#[derive(Default)]
struct Weights {
    rows: Range<usize>,
    /// `[G, rows, D]`, scaled.
    queries: Vec<f32>,
    /// Tile after tile, each `[G, rows, its keys]`: `exp(logit - max)`; 0 for keys that a row does not see.
    tiles: Vec<f32>,
    /// `[tiles, G, rows]`.
    parts: Vec<Part>,
}

/// A row's softmax within a tile.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The largest logit; -inf if the row sees no key.
    max: f32,
    /// Sum of `exp(logit - max)`.
    sum: f32,
    /// What makes weights of `exp(logit - max)`.
    share: f32,
}

impl Weights {
    fn load(&mut self, q: &[f32], head: usize, rows: Range<usize>, s: &AttentionShape) {
        let (d, group) = (s.head_dim, s.group());
        let scale = 1.0 / (d as f32).sqrt();
        self.queries.clear();
        for g in head * group..(head + 1) * group {
            for row in rows.clone() {
                let query = &q[(row * s.q_heads + g) * d..][..d];
                self.queries.extend(query.iter().map(|x| x * scale));
            }
        }
        self.rows = rows;
    }

    fn attend(&mut self, k: &[f32], head: usize, s: &AttentionShape) {
        let rows = self.rows.clone();
        let height = s.group() * rows.len();
        // Keys that the last row sees.
        let end = s.first_position() + rows.end;
        self.tiles.resize(height * end, 0.0);
        let parts = height * end.div_ceil(KEY_TILE);
        self.parts.resize(parts, Part::default());
        let queries = Strided::dense(&self.queries, height, s.head_dim);
        let tiles = self.tiles.par_chunks_mut(height * KEY_TILE);
        let tiles = tiles.zip(self.parts.par_chunks_mut(height));
        tiles.enumerate().for_each(|(index, (tile, parts))| {
            let start = index * KEY_TILE;
            let keys = tile.len() / height;
            product_transposed(tile, queries, s.head_rows(k, head, start, keys));
            vectorised!({
                for (at, (row, part)) in tile.chunks_exact_mut(keys).zip(parts).enumerate() {
                    let position = s.first_position() + rows.start + at % rows.len();
                    let visible = (position + 1).saturating_sub(start).min(keys);
                    let (seen, hidden) = row.split_at_mut(visible);
                    hidden.fill(0.0);
                    let max = lanes::max(seen);
                    let sum = lanes::exp_and_sum(seen, max);
                    *part = Part {
                        max,
                        sum,
                        share: 0.0,
                    };
                }
            });
        });
        for row in 0..height {
            let of_row = || self.parts[row..].iter().step_by(height);
            let max = of_row().map(|part| part.max);
            let max = max.fold(f32::NEG_INFINITY, f32::max);
            let sums = of_row().map(|part| part.sum * exp_nonpositive(part.max - max));
            let total: f32 = sums.sum();
            for part in self.parts[row..].iter_mut().step_by(height) {
                part.share = exp_nonpositive(part.max - max) / total;
            }
        }
    }

    /// Takes the rows into the statistics of their heads, in the order of rows.
    fn add_to(
        &self,
        seen: &mut Observed,
        head: usize,
        columns: usize,
        wanted: Wanted,
        s: &AttentionShape,
    ) {
        let (group, rows) = (s.group(), self.rows.len());
        let heads = head * group..(head + 1) * group;
        let mut variances = seen.variance.chunks_exact_mut(columns).skip(heads.start);
        let mut maxima = seen.max.chunks_exact_mut(columns).skip(heads.start);
        let means = seen.mean.chunks_exact_mut(columns).skip(heads.start);
        let mut tasks = Vec::new();
        for (g, mean) in means.take(group).enumerate() {
            let mut variance = variances.next().map(|of| of.chunks_mut(KEY_TILE));
            let mut max = maxima.next().map(|of| of.chunks_mut(KEY_TILE));
            // Columns behind the tiles are seen by later rows only: their statistics are 0 so far.
            let parts = self.parts.chunks_exact(group * rows);
            let tiles = self.tiles.chunks(group * rows * KEY_TILE).zip(parts);
            for (mean, (tile, parts)) in mean.chunks_mut(KEY_TILE).zip(tiles) {
                let of_head = tile.len() / group;
                tasks.push(Task {
                    first_row: self.rows.start,
                    of_rows: s.queries,
                    weights: &tile[g * of_head..][..of_head],
                    parts: &parts[g * rows..][..rows],
                    mean,
                    variance: variance.as_mut().and_then(Iterator::next),
                    max: max.as_mut().and_then(Iterator::next),
                    entropy: wanted.entropy,
                });
            }
        }
        let entropies: Vec<f64> = tasks.into_par_iter().map(Task::run).collect();
        seen.entropy += entropies.iter().sum::<f64>();
    }
}

/// The rows of one query head in one tile, and the statistics of its columns.
struct Task<'a> {
    /// Index of the first row among all `of_rows`.
    first_row: usize,
    of_rows: usize,
    /// `[rows, keys]`.
    weights: &'a [f32],
    parts: &'a [Part],
    mean: &'a mut [f32],
    variance: Option<&'a mut [f32]>,
    max: Option<&'a mut [f32]>,
    entropy: bool,
}

impl Task<'_> {
    /// The entropy of these weights, if it is wanted.
    fn run(mut self) -> f64 {
        let keys = self.weights.len() / self.parts.len();
        let width = keys.min(self.mean.len());
        let rows = self.weights.chunks_exact(keys).zip(self.parts);
        if self.variance.is_none() && self.max.is_none() && !self.entropy {
            vectorised!({
                for (weights, part) in rows {
                    let share = part.share / self.of_rows as f32;
                    lanes::add_scaled(&mut self.mean[..width], share, &weights[..width]);
                }
            });
            return 0.0;
        }
        let mut of_row = [0.0; KEY_TILE];
        let mut entropy = 0.0;
        for (row, (weights, part)) in rows.enumerate() {
            let of_row = &mut of_row[..width];
            vectorised!({
                for (weight, unshared) in of_row.iter_mut().zip(weights) {
                    *weight = unshared * part.share;
                }
                let variance = self.variance.as_deref_mut();
                welford(self.mean, variance, of_row, self.first_row + row);
                if let Some(max) = self.max.as_deref_mut() {
                    for (max, &weight) in max.iter_mut().zip(&*of_row) {
                        *max = if weight > *max { weight } else { *max };
                    }
                }
            });
            if self.entropy {
                entropy -= of_row.iter().map(|&a| entropy_term(a)).sum::<f64>();
            }
        }
        entropy
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
    }
}
