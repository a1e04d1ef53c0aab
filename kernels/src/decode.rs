//! Decode attention over ragged pages: every (sequence, KV head) has its own number of rows.

use rayon::prelude::*;

use crate::lanes;
use crate::rotation::{rotate, rotate_back};
use crate::rows::{self, Run};
use crate::vectorised::vectorised;

/// Multiply-adds of one step under which waking the other threads costs more than it saves.
const PARALLEL_MIN: usize = 1 << 18;

/// One KV head of one sequence and the queries that look at it.
#[derive(Clone, Debug)]
pub struct DecodeHead<'a> {
    /// `[G, D]`: the query heads of this KV head's group.
    pub queries: &'a [f32],
    /// Its rows, in any order.
    pub runs: Vec<Run<'a>>,
    /// `[D]`: what its packed keys are relative to; not looked at if there are none.
    pub mean_key: &'a [f32],
}

impl DecodeHead<'_> {
    /// Entries of all runs.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.rows).sum()
    }
}

/// `softmax(q kᵀ / sqrt(D)) v` of each head over its own rows. `out` is `[heads, G, D]` in the order
/// of `heads`; a head without rows gets zeros.
pub fn decode_attention(out: &mut [f32], heads: &[DecodeHead<'_>], head_dim: usize) {
    let work: usize = heads.iter().map(|h| h.rows() * h.queries.len()).sum();
    let Some(first) = heads.first() else { return };
    let len = first.queries.len();
    assert_eq!(out.len(), heads.len() * len);
    for head in heads {
        assert_eq!(head.queries.len(), len, "groups differ in size");
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
    /// `[rows, D]` of one run, without their scales.
    codes: Vec<f32>,
    /// `[rows]` of one run.
    scales: Vec<f32>,
    /// `[G, D]`: what packed rows see of the queries, and add to the output.
    rotated: Vec<f32>,
}

impl Scratch {
    fn attend(&mut self, out: &mut [f32], head: &DecodeHead<'_>, d: usize) {
        out.fill(0.0);
        let rows = head.rows();
        if rows == 0 {
            return;
        }
        self.score(head, d);
        vectorised!({
            for weights in self.weights.chunks_exact_mut(rows) {
                let max = lanes::max(weights);
                let norm = 1.0 / lanes::exp_and_sum(weights, max);
                weights.iter_mut().for_each(|w| *w *= norm);
            }
        });
        self.mix(out, head, d);
    }

    /// The logits. A packed key `k = mean + R^-1 scale code`, with `R` the rotation, gives
    /// `q k = q mean + scale (R q) code`: codes are multiplied as they are.
    fn score(&mut self, head: &DecodeHead<'_>, d: usize) {
        let norm = 1.0 / (d as f32).sqrt();
        let rows = head.rows();
        self.weights.resize(head.queries.len() / d * rows, 0.0);
        if head.runs.iter().any(|run| run.format.is_packed()) {
            self.rotated.clear();
            self.rotated.extend_from_slice(head.queries);
            self.rotated.chunks_exact_mut(d).for_each(rotate);
        }
        let mut start = 0;
        for run in &head.runs {
            self.load(run, run.keys, d);
            let packed = run.format.is_packed();
            let queries = match packed {
                true => &self.rotated,
                false => head.queries,
            };
            let (codes, scales, weights) = (&self.codes, &self.scales, &mut self.weights);
            vectorised!({
                let per_query = weights.chunks_exact_mut(rows);
                for ((query, weights), plain) in queries
                    .chunks_exact(d)
                    .zip(per_query)
                    .zip(head.queries.chunks_exact(d))
                {
                    let weights = &mut weights[start..start + run.rows];
                    for (w, key) in weights.iter_mut().zip(codes.chunks_exact(d)) {
                        *w = lanes::dot(query, key) * norm;
                    }
                    if packed {
                        let constant = lanes::dot(plain, head.mean_key) * norm;
                        for (w, scale) in weights.iter_mut().zip(scales) {
                            *w = w.mul_add(*scale, constant);
                        }
                    }
                }
            });
            start += run.rows;
        }
    }

    /// The weighted sum of the values. Packed ones are summed as rotated codes, each weight times its
    /// scale, and the sum is rotated back.
    fn mix(&mut self, out: &mut [f32], head: &DecodeHead<'_>, d: usize) {
        let rows = head.rows();
        self.rotated.clear();
        self.rotated.resize(head.queries.len(), 0.0);
        let mut start = 0;
        for run in &head.runs {
            self.load(run, run.values, d);
            let packed = run.format.is_packed();
            let sums = match packed {
                true => &mut self.rotated[..],
                false => &mut *out,
            };
            let (codes, scales, weights) = (&self.codes, &self.scales, &mut self.weights);
            vectorised!({
                let per_query = weights.chunks_exact_mut(rows);
                for (sum, weights) in sums.chunks_exact_mut(d).zip(per_query) {
                    let weights = &mut weights[start..start + run.rows];
                    if packed {
                        weights
                            .iter_mut()
                            .zip(scales)
                            .for_each(|(w, scale)| *w *= scale);
                    }
                    for (w, value) in weights.iter().zip(codes.chunks_exact(d)) {
                        lanes::add_scaled(sum, *w, value);
                    }
                }
            });
            start += run.rows;
        }
        if head.runs.iter().any(|run| run.format.is_packed()) {
            for (out, rotated) in out
                .chunks_exact_mut(d)
                .zip(self.rotated.chunks_exact_mut(d))
            {
                rotate_back(rotated);
                out.iter_mut().zip(rotated).for_each(|(out, x)| *out += *x);
            }
        }
    }

    /// The codes and scales of one half of a run.
    fn load(&mut self, run: &Run<'_>, half: rows::Half<'_>, d: usize) {
        self.codes.resize(run.rows * d, 0.0);
        let bytes = run.rows * run.format.code_bytes(d);
        rows::widen(run.format, &half.codes[..bytes], d, &mut self.codes);
        self.scales.resize(run.rows, 0.0);
        rows::widen_scales(half.scales, &mut self.scales);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::rows::Half;
    use lava_kv::RowFormat;
    use proptest::prelude::*;

    /// Entries of one form in memory, `page_rows` to a page.
    struct Pages {
        format: RowFormat,
        /// Key codes, key scales, value codes, value scales of each page.
        pages: Vec<[Vec<u16>; 4]>,
        rows: usize,
        page_rows: usize,
    }

    impl Pages {
        /// `rows` is `[rows, 2, D]`: keys and values.
        fn new(format: RowFormat, rows: &[f32], mean: &[f32], page_rows: usize) -> Self {
            let d = mean.len();
            let page = |rows: &[f32]| {
                let (c, s) = (format.code_bytes(d), format.scale_bytes());
                // Two bytes to an element keep the alignment of 16-bit floats; there are more than needed.
                let mut parts =
                    [c, s, c, s].map(|bytes| vec![0u16; (page_rows * bytes).div_ceil(2)]);
                for (i, row) in rows.chunks_exact(2 * d).enumerate() {
                    let (key, value) = row.split_at(d);
                    let [key_codes, key_scales, codes, scales] = parts
                        .each_mut()
                        .map(|part| bytemuck::cast_slice_mut::<_, u8>(part));
                    let (key_codes, codes) =
                        (&mut key_codes[i * c..][..c], &mut codes[i * c..][..c]);
                    let (key_scale, scale) =
                        (&mut key_scales[i * s..][..s], &mut scales[i * s..][..s]);
                    if format.is_packed() {
                        rows::pack_key(format, key, mean, key_codes, key_scale);
                        rows::pack_value(format, value, codes, scale);
                    } else {
                        rows::store(format, key, key_codes);
                        rows::store(format, value, codes);
                    }
                }
                parts
            };
            Self {
                format,
                pages: rows.chunks(2 * d * page_rows).map(page).collect(),
                rows: rows.len() / (2 * d),
                page_rows,
            }
        }

        fn runs(&self) -> impl Iterator<Item = Run<'_>> {
            self.pages.iter().enumerate().map(|(index, page)| {
                let [key_codes, key_scales, codes, scales] = page
                    .each_ref()
                    .map(|part| bytemuck::cast_slice::<_, u8>(part));
                Run {
                    format: self.format,
                    rows: self.page_rows.min(self.rows - index * self.page_rows),
                    keys: Half {
                        codes: key_codes,
                        scales: key_scales,
                    },
                    values: Half { codes, scales },
                }
            })
        }
    }

    /// Heads of `(wide, other)` rows each.
    fn check(
        format: RowFormat,
        heads: &[(usize, usize)],
        group: usize,
        d: usize,
        page_rows: usize,
        seed: u64,
    ) {
        let mut next = seed | 1;
        let mut draw = |len: usize, offset: f32| -> Vec<f32> {
            let mut one = || {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (next >> 40) as f32 / (1 << 23) as f32 - 1.0 + offset
            };
            (0..len).map(|_| one()).collect()
        };
        let stored: Vec<_> = heads
            .iter()
            .map(|&(wide, other)| {
                let mean = draw(d, 3.0);
                let wide = Pages::new(format.wide(), &draw(wide * 2 * d, 0.0), &mean, page_rows);
                let other = Pages::new(format, &draw(other * 2 * d, 0.5), &mean, page_rows);
                (draw(group * d, 0.0), mean, wide, other)
            })
            .collect();
        let heads: Vec<DecodeHead<'_>> = stored
            .iter()
            .map(|(queries, mean_key, wide, other)| DecodeHead {
                queries,
                runs: wide.runs().chain(other.runs()).collect(),
                mean_key,
            })
            .collect();
        let mut out = vec![f32::NAN; heads.len() * group * d];
        decode_attention(&mut out, &heads, d);
        for (head, out) in heads.iter().zip(out.chunks_exact(group * d)) {
            for (fast, slow) in out.iter().zip(reference::decode_attention(head, d)) {
                assert!(
                    (*fast as f64 - slow).abs() < 2e-5,
                    "{format}: {fast} != {slow}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_agrees_with_the_reference_on_ragged_heads(
            format in prop::sample::select(RowFormat::ALL.to_vec()),
            heads in prop::collection::vec((0usize..40, 0usize..90), 1..7), group in 1usize..5,
            half_dim in 1usize..20, page_rows in 1usize..20, seed in any::<u64>(),
        ) {
            check(format, &heads, group, 2 * half_dim, page_rows, seed);
        }
    }

    #[test]
    fn it_agrees_when_the_work_is_shared_between_threads() {
        for format in RowFormat::ALL {
            check(
                format,
                &[(30, 700), (0, 0), (1, 0), (32, 900)],
                4,
                64,
                16,
                7,
            );
        }
    }
}
