//! Decode attention over ragged pages: every (sequence, KV head) has its own number of rows.

use rayon::prelude::*;

use crate::lanes;
use crate::rows::PageRows;
use crate::vectorised::vectorised;

/// Multiply-adds of one step under which waking the other threads costs more than it saves.
const PARALLEL_MIN: usize = 1 << 18;

/// One KV head of one sequence and the queries that look at it.
#[derive(Clone, Debug)]
pub struct DecodeHead<'a> {
    /// `[G, D]`: the query heads of this KV head's group.
    pub queries: &'a [f32],
    /// Pages of `[2, page_rows, D]`: the K rows, then the V rows.
    pub pages: Vec<PageRows<'a>>,
    /// Rows in use; they fill the pages in order.
    pub rows: usize,
    /// Rows a page can hold.
    pub page_rows: usize,
}

/// `softmax(q kᵀ / sqrt(D)) v` of each head over its own rows. `out` is `[heads, G, D]` in the order
/// of `heads`; a head without rows gets zeros.
pub fn decode_attention(out: &mut [f32], heads: &[DecodeHead<'_>], head_dim: usize) {
    let work: usize = heads.iter().map(|h| h.rows * h.queries.len()).sum();
    let Some(first) = heads.first() else { return };
    let len = first.queries.len();
    assert_eq!(out.len(), heads.len() * len);
    for head in heads {
        assert_eq!(head.queries.len(), len, "groups differ in size");
        assert!(
            head.rows <= head.pages.len() * head.page_rows,
            "rows exceed the pages"
        );
    }
    let tasks = out.chunks_exact_mut(len).zip(heads);
    if work < PARALLEL_MIN {
        let mut scratch = Scratch::default();
        tasks.for_each(|(out, head)| scratch.attend(out, head, head_dim));
    } else {
        out.par_chunks_exact_mut(len).zip(heads).for_each_init(
            Scratch::default,
            |scratch, (out, head)| {
                scratch.attend(out, head, head_dim);
            },
        );
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// `[G, rows]`.
    weights: Vec<f32>,
    page: Vec<f32>,
}

impl Scratch {
    fn attend(&mut self, out: &mut [f32], head: &DecodeHead<'_>, d: usize) {
        out.fill(0.0);
        if head.rows == 0 {
            return;
        }
        self.score(head, d);
        let rows = head.rows;
        vectorised!({
            for weights in self.weights.chunks_exact_mut(rows) {
                let max = lanes::max(weights);
                let norm = 1.0 / lanes::exp_and_sum(weights, max);
                weights.iter_mut().for_each(|w| *w *= norm);
            }
        });
        self.mix(out, head, d);
    }

    fn score(&mut self, head: &DecodeHead<'_>, d: usize) {
        let scale = 1.0 / (d as f32).sqrt();
        self.weights.resize(head.queries.len() / d * head.rows, 0.0);
        for (index, page) in head.pages.iter().enumerate() {
            let start = index * head.page_rows;
            let rows = head.page_rows.min(head.rows.saturating_sub(start));
            let keys = page.slice(0, rows * d).widen(&mut self.page);
            let weights = &mut self.weights;
            vectorised!({
                let per_query = weights.chunks_exact_mut(head.rows);
                for (query, weights) in head.queries.chunks_exact(d).zip(per_query) {
                    for (w, key) in weights[start..].iter_mut().zip(keys.chunks_exact(d)) {
                        *w = lanes::dot(query, key) * scale;
                    }
                }
            });
        }
    }

    fn mix(&mut self, out: &mut [f32], head: &DecodeHead<'_>, d: usize) {
        for (index, page) in head.pages.iter().enumerate() {
            let start = index * head.page_rows;
            let rows = head.page_rows.min(head.rows.saturating_sub(start));
            let values = page.slice(head.page_rows * d, rows * d);
            let values = values.widen(&mut self.page);
            let weights = &self.weights;
            vectorised!({
                let per_query = weights.chunks_exact(head.rows);
                for (out, weights) in out.chunks_exact_mut(d).zip(per_query) {
                    for (w, value) in weights[start..].iter().zip(values.chunks_exact(d)) {
                        lanes::add_scaled(out, *w, value);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefill::AttentionShape;
    use crate::reference;
    use half::slice::HalfFloatSliceExt;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn check(rows: &[usize], group: usize, d: usize, page_rows: usize, seed: u64) {
        let total = rows.iter().map(|r| r.div_ceil(page_rows)).sum::<usize>();
        let shape = AttentionShape {
            queries: rows.len(),
            keys: (total * 2 * page_rows).max(rows.len()),
            q_heads: group,
            kv_heads: 1,
            head_dim: d,
        };
        let (q, k, _) = crate::window::tests::inputs(&shape, seed);
        let half: Vec<f16> = k.iter().map(|&x| f16::from_f32(x)).collect();
        let mut brain = vec![bf16::ZERO; k.len()];
        brain.convert_from_f32_slice(&k);
        let stored = [
            PageRows::F32(&k),
            PageRows::F16(&half),
            PageRows::Bf16(&brain),
        ];
        for store in stored {
            let mut next = 0;
            let heads: Vec<DecodeHead<'_>> = rows
                .iter()
                .zip(q.chunks_exact(group * d))
                .map(|(&rows, queries)| DecodeHead {
                    queries,
                    pages: (0..rows.div_ceil(page_rows))
                        .map(|_| {
                            next += 1;
                            store.slice((next - 1) * 2 * page_rows * d, 2 * page_rows * d)
                        })
                        .collect(),
                    rows,
                    page_rows,
                })
                .collect();
            let mut out = vec![f32::NAN; heads.len() * group * d];
            decode_attention(&mut out, &heads, d);
            for (head, out) in heads.iter().zip(out.chunks_exact(group * d)) {
                for (fast, slow) in out.iter().zip(reference::decode_attention(head, d)) {
                    assert!((*fast as f64 - slow).abs() < 1e-5, "{fast} != {slow}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_agrees_with_the_reference_on_ragged_heads(
            rows in prop::collection::vec(0usize..90, 1..7), group in 1usize..5,
            half_dim in 1usize..20, page_rows in 1usize..20, seed in any::<u64>(),
        ) {
            check(&rows, group, 2 * half_dim, page_rows, seed);
        }
    }

    #[test]
    fn it_agrees_when_the_work_is_shared_between_threads() {
        check(&[700, 0, 1, 900], 4, 64, 16, 7);
    }
}
