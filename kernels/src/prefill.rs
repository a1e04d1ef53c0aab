//! Causal attention of a block of prompt tokens over all keys so far, tiled with an online softmax:
//! no `[T, N]` matrix exists.

use rayon::prelude::*;

use crate::gemm::{Strided, add_product, product_transposed};
use crate::lanes;
use crate::vectorised::vectorised;

/// Query tokens of one task. With G query heads each, a tile has 32 G rows: enough for the product
/// to run at speed, small enough to stay in L2 with its scores.
const QUERY_TILE: usize = 32;
/// Keys of one inner step.
const KEY_TILE: usize = 256;

/// Sizes of one causal attention: the last `queries` of `keys` tokens ask.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query tokens T; their positions are the last T of the keys.
    pub queries: usize,
    /// Key tokens, the queries' own included.
    pub keys: usize,
    /// Hq.
    pub q_heads: usize,
    /// Hkv; divides Hq.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Position of the first query token, which is also the number of keys before it.
    pub fn first_position(&self) -> usize {
        self.keys - self.queries
    }

    /// G = Hq / Hkv.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    pub(crate) fn check(&self, q: &[f32], k: &[f32]) {
        assert!(self.queries <= self.keys, "more queries than keys");
        assert!(self.kv_heads > 0 && self.q_heads.is_multiple_of(self.kv_heads));
        assert_eq!(q.len(), self.queries * self.q_heads * self.head_dim);
        assert!(k.len() >= self.keys * self.kv_heads * self.head_dim);
    }

    /// Rows of KV head `h` among `[tokens, Hkv, D]` values, from token `start`.
    pub(crate) fn head_rows<'a>(
        &self,
        data: &'a [f32],
        h: usize,
        start: usize,
        rows: usize,
    ) -> Strided<'a> {
        let row_stride = self.kv_heads * self.head_dim;
        Strided {
            data: &data[start * row_stride + h * self.head_dim..],
            rows,
            cols: self.head_dim,
            row_stride,
        }
    }
}

/// `softmax(q kᵀ / sqrt(D), causal) v` for the last T tokens.
///
/// `q` `[T, Hq, D]`, `k` and `v` `[N, Hkv, D]` (only the first `shape.keys` tokens are read), `out`
/// `[T, Hq, D]`; all f32 and contiguous.
pub fn causal_attention(out: &mut [f32], q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) {
    shape.check(q, k);
    assert_eq!(out.len(), q.len());
    assert_eq!(k.len(), v.len());
    let token = shape.q_heads * shape.head_dim;
    out.par_chunks_mut(QUERY_TILE * token)
        .zip(q.par_chunks(QUERY_TILE * token))
        .enumerate()
        // The last tiles see the most keys: start them first so that no core waits at the end.
        .rev()
        .for_each_init(Tile::default, |tile, (index, (out, q))| {
            let first = shape.first_position() + index * QUERY_TILE;
            for h in 0..shape.kv_heads {
                tile.load(q, h, shape);
                tile.attend(k, v, h, first, shape);
                tile.store(out, h, shape);
            }
        });
}

/// The G query heads of one KV head for a tile of tokens: rows are `[token, group]`.
#[derive(Default)]
struct Tile {
    tokens: usize,
    queries: Vec<f32>,
    scores: Vec<f32>,
    acc: Vec<f32>,
    row_max: Vec<f32>,
    row_sum: Vec<f32>,
}

impl Tile {
    fn load(&mut self, q: &[f32], h: usize, s: &AttentionShape) {
        let (d, g) = (s.head_dim, s.group());
        let scale = 1.0 / (d as f32).sqrt();
        self.tokens = q.len() / (s.q_heads * d);
        self.queries.clear();
        for token in q.chunks_exact(s.q_heads * d) {
            let heads = &token[h * g * d..(h + 1) * g * d];
            self.queries.extend(heads.iter().map(|x| x * scale));
        }
        let rows = self.tokens * g;
        self.scores.resize(rows * KEY_TILE, 0.0);
        self.acc.clear();
        self.acc.resize(rows * d, 0.0);
        self.row_max.clear();
        self.row_max.resize(rows, f32::NEG_INFINITY);
        self.row_sum.clear();
        self.row_sum.resize(rows, 0.0);
    }

    /// `first` is the position of the tile's first token.
    fn attend(&mut self, k: &[f32], v: &[f32], h: usize, first: usize, s: &AttentionShape) {
        let (d, g) = (s.head_dim, s.group());
        let rows = self.tokens * g;
        let end = first + self.tokens;
        for start in (0..end).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(end - start);
            let scores = &mut self.scores[..rows * keys];
            let queries = Strided::dense(&self.queries, rows, d);
            product_transposed(scores, queries, s.head_rows(k, h, start, keys));
            self.softmax_step(g, first, start, keys, d);
            let scores = Strided::dense(&self.scores[..rows * keys], rows, keys);
            add_product(&mut self.acc, scores, s.head_rows(v, h, start, keys));
        }
    }

    /// Turns the scores of keys `start..start + keys` into unnormalised weights and rescales what
    /// earlier keys left, row by row (online softmax).
    fn softmax_step(&mut self, g: usize, first: usize, start: usize, keys: usize, d: usize) {
        vectorised!({
            let rows = self.scores.chunks_exact_mut(keys).take(self.tokens * g);
            for (row, scores) in rows.enumerate() {
                let visible = (first + row / g + 1).saturating_sub(start).min(keys);
                let (seen, masked) = scores.split_at_mut(visible);
                masked.fill(0.0);
                if seen.is_empty() {
                    continue;
                }
                let old = self.row_max[row];
                let new = lanes::max(seen).max(old);
                let sum = lanes::exp_and_sum(seen, new);
                let keep = if old == f32::NEG_INFINITY {
                    0.0
                } else {
                    crate::exp::exp_nonpositive(old - new)
                };
                self.row_max[row] = new;
                self.row_sum[row] = self.row_sum[row].mul_add(keep, sum);
                if keep != 1.0 {
                    for x in &mut self.acc[row * d..(row + 1) * d] {
                        *x *= keep;
                    }
                }
            }
        });
    }

    fn store(&self, out: &mut [f32], h: usize, s: &AttentionShape) {
        let (d, g) = (s.head_dim, s.group());
        for (row, acc) in self.acc.chunks_exact(d).enumerate() {
            let (t, head) = (row / g, h * g + row % g);
            let norm = 1.0 / self.row_sum[row];
            let out = &mut out[(t * s.q_heads + head) * d..][..d];
            for (o, a) in out.iter_mut().zip(acc) {
                *o = a * norm;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_agrees_with_the_reference(
            queries in 1usize..70, before in 0usize..600, kv_heads in 1usize..4,
            group in 1usize..5, half_dim in 1usize..20, seed in any::<u64>(),
        ) {
            let shape = AttentionShape {
                queries, keys: before + queries, q_heads: kv_heads * group, kv_heads,
                head_dim: 2 * half_dim,
            };
            let (q, k, v) = crate::window::tests::inputs(&shape, seed);
            let mut out = vec![0.0; q.len()];
            causal_attention(&mut out, &q, &k, &v, &shape);
            for (fast, slow) in out.iter().zip(reference::causal_attention(&q, &k, &v, &shape)) {
                prop_assert!((*fast as f64 - slow).abs() < 2e-5, "{fast} != {slow}");
            }
        }
    }
}
