//! What eviction policies read of a layer's value rows: the largest of each KV head (LAVa, arXiv 2509.09754,
//! section 4), and how long they are behind the output projection.

use rayon::prelude::*;

use crate::gemm::{Strided, product_transposed};
use crate::lanes;
use crate::vectorised::vectorised;

/// Rows of one inner step.
const TILE: usize = 512;

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
        let mut products = vec![0.0; TILE.min(rows) * head_dim];
        for (tile, out) in out.chunks_mut(TILE).enumerate() {
            let first = tile * TILE;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefill::AttentionShape;
    use crate::reference;
    use crate::window::tests::inputs;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
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
