//! Decode attention over ragged pages: every (sequence, KV head) has its own number of rows.

use rayon::prelude::*;

use crate::exp::exp_nonpositive;
use crate::isa::{Isa, with_isa};
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
///
/// A head's rows are shared between threads in pieces that depend on the head only, so its answer does not
/// depend on the heads beside it, to the bit.
pub fn decode_attention(out: &mut [f32], heads: &[DecodeHead<'_>], head_dim: usize) {
    let work: usize = heads.iter().map(|h| h.rows() * h.queries.len()).sum();
    let Some(first) = heads.first() else { return };
    let len = first.queries.len();
    assert_eq!(out.len(), heads.len() * len);
    for head in heads {
        assert_eq!(head.queries.len(), len, "groups differ in size");
    }
    let pieces: Vec<Piece<'_>> = heads.iter().enumerate().flat_map(pieces).collect();
    let groups = len / head_dim;
    let state_len = State::len(groups, head_dim);
    let mut states = vec![0.0; pieces.len() * state_len];
    let tasks = states.par_chunks_exact_mut(state_len).zip(&pieces);
    let fewest = if work < PARALLEL_MIN { pieces.len() } else { 1 };
    tasks
        .with_min_len(fewest)
        .for_each_init(Scratch::default, |scratch, (state, piece)| {
            let state = State::of(state, groups, head_dim);
            scratch.attend(state, piece, head_dim);
        });
    out.fill(0.0);
    let mut merged = vec![0.0; state_len];
    let states = states.chunks_exact_mut(state_len).zip(&pieces);
    let mut states = states.peekable();
    while let Some((first, piece)) = states.next() {
        merged.copy_from_slice(first);
        let mut merged = State::of(&mut merged, groups, head_dim);
        while let Some((next, _)) = states.next_if(|(_, next)| next.head == piece.head) {
            merged.add(State::of(next, groups, head_dim), head_dim);
        }
        let out = &mut out[piece.head * len..][..len];
        merged.finish(out, head_dim);
    }
}

/// Rows of a piece at least, but for a head's last one.
const PIECE_ROWS: usize = 256;
/// Rows that are multiplied at once.
const TILE: usize = 8;
/// Lanes of a vector.
const LANES: usize = 8;

/// Some runs of one head.
struct Piece<'a> {
    /// Index of the head.
    head: usize,
    queries: &'a [f32],
    mean_key: &'a [f32],
    runs: &'a [Run<'a>],
}

fn pieces<'a>((index, head): (usize, &'a DecodeHead<'a>)) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (at, run) in head.runs.iter().enumerate() {
        rows += run.rows;
        if rows >= PIECE_ROWS || at + 1 == head.runs.len() {
            pieces.push(Piece {
                head: index,
                queries: head.queries,
                mean_key: head.mean_key,
                runs: &head.runs[start..=at],
            });
            (start, rows) = (at + 1, 0);
        }
    }
    pieces.retain(|piece| piece.runs.iter().any(|run| run.rows > 0));
    pieces
}

/// The softmax of some rows before it is normalised, for each of G queries.
struct State<'a> {
    /// `[G]`: the largest logit.
    max: &'a mut [f32],
    /// `[G]`: sum of `exp(logit - max)`.
    sum: &'a mut [f32],
    /// `[G, D]` each, D rounded up to whole vectors: values by those weights, plain ones, and packed ones as
    /// rotated codes.
    values: [&'a mut [f32]; 2],
}

impl<'a> State<'a> {
    fn len(groups: usize, head_dim: usize) -> usize {
        2 * groups * (1 + head_dim.next_multiple_of(LANES))
    }

    fn of(all: &'a mut [f32], groups: usize, head_dim: usize) -> Self {
        let (max, rest) = all.split_at_mut(groups);
        let (sum, rest) = rest.split_at_mut(groups);
        let (plain, rotated) = rest.split_at_mut(groups * head_dim.next_multiple_of(LANES));
        Self {
            max,
            sum,
            values: [plain, rotated],
        }
    }

    /// Takes in the state of the rows behind.
    fn add(&mut self, next: State<'_>, head_dim: usize) {
        let width = head_dim.next_multiple_of(LANES);
        for g in 0..self.max.len() {
            let max = self.max[g].max(next.max[g]);
            let keep = exp_nonpositive(self.max[g] - max);
            let take = exp_nonpositive(next.max[g] - max);
            self.max[g] = max;
            self.sum[g] = self.sum[g] * keep + next.sum[g] * take;
            for (values, next) in self.values.iter_mut().zip(&next.values) {
                let part = g * width..(g + 1) * width;
                for (x, next) in values[part.clone()].iter_mut().zip(&next[part]) {
                    *x = *x * keep + next * take;
                }
            }
        }
    }

    /// The weighted values, `[G, D]`.
    fn finish(&mut self, out: &mut [f32], head_dim: usize) {
        let width = head_dim.next_multiple_of(LANES);
        let [plain, rotated] = &mut self.values;
        let rows = out.chunks_exact_mut(head_dim).zip(&*self.sum);
        let rows = rows.zip(
            plain
                .chunks_exact(width)
                .zip(rotated.chunks_exact_mut(width)),
        );
        for ((out, sum), (plain, rotated)) in rows {
            let rotated = &mut rotated[..head_dim];
            if rotated.iter().any(|x| *x != 0.0) {
                rotate_back(rotated);
            }
            for ((out, plain), rotated) in out.iter_mut().zip(plain).zip(rotated) {
                *out = (plain + *rotated) / sum;
            }
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// `[2, G, D]`: the queries as plain and as packed rows see them.
    queries: [Vec<f32>; 2],
    /// `[G]`: what the mean key adds to the logits of packed rows.
    constants: Vec<f32>,
    /// `[G, rows]`, where the rows of each run are rounded up to whole tiles.
    weights: Vec<[f32; TILE]>,
    /// `[TILE, D]`: codes of some rows.
    codes: Vec<[f32; LANES]>,
    /// `[rows]` of one run, rounded up.
    scales: Vec<[f32; TILE]>,
}

impl Scratch {
    fn attend(&mut self, state: State<'_>, piece: &Piece<'_>, d: usize) {
        self.look(piece, d);
        // Head dims that models have, compiled with that number known.
        match d.div_ceil(LANES) {
            8 => with_isa!(isa => self.attend_with::<_, 8>(isa, state, piece, d)),
            16 => with_isa!(isa => self.attend_with::<_, 16>(isa, state, piece, d)),
            _ => with_isa!(isa => self.attend_with::<_, 0>(isa, state, piece, d)),
        }
    }

    /// The queries, padded to whole vectors. A packed key `k = mean + R^-1 scale code`, with `R` the rotation,
    /// gives `q k = q mean + scale (R q) code`: codes are multiplied as they are.
    fn look(&mut self, piece: &Piece<'_>, d: usize) {
        let width = d.next_multiple_of(LANES);
        let norm = 1.0 / (d as f32).sqrt();
        let packed = piece.runs.iter().any(|run| run.format.is_packed());
        for queries in &mut self.queries {
            queries.clear();
        }
        self.constants.clear();
        let [plain, rotated] = &mut self.queries;
        for query in piece.queries.chunks_exact(d) {
            let start = plain.len();
            plain.extend(query.iter().map(|x| x * norm));
            plain.resize(start + width, 0.0);
            if packed {
                rotated.extend_from_slice(&plain[start..start + d]);
                rotate(&mut rotated[start..]);
                rotated.resize(start + width, 0.0);
                self.constants.push(vectorised!({
                    lanes::dot(&plain[start..start + d], piece.mean_key)
                }));
            }
        }
    }

    /// V is the number of vectors of a row, or 0 if it is not known.
    #[inline(always)]
    fn attend_with<I: Isa, const V: usize>(
        &mut self,
        isa: I,
        state: State<'_>,
        piece: &Piece<'_>,
        d: usize,
    ) {
        let vectors = if V > 0 { V } else { d.div_ceil(LANES) };
        let groups = piece.queries.len() / d;
        let padded = |run: &Run<'_>| run.rows.next_multiple_of(TILE);
        let rows: usize = piece.runs.iter().map(padded).sum();
        self.codes.clear();
        self.codes.resize(TILE * vectors, [0.0; LANES]);
        self.weights.resize(groups * rows / TILE, [0.0; TILE]);
        let weights = &mut self.weights[..groups * rows / TILE];
        let stride = rows / TILE;

        let mut start = 0;
        for run in piece.runs {
            read_scales(isa, &mut self.scales, run, run.keys);
            let packed = run.format.is_packed();
            let queries = self.queries[usize::from(packed)].as_chunks::<LANES>().0;
            for (tile, scales) in self.scales.iter().enumerate() {
                let codes = &mut self.codes[..TILE * vectors];
                read(isa, codes, run, run.keys, tile, d);
                let scales = isa.floats(scales);
                for (g, query) in queries.chunks_exact(vectors).enumerate() {
                    let mut logits = dot(isa, query, codes);
                    if packed {
                        logits = isa.multiply_add(logits, scales, isa.splat(self.constants[g]));
                    }
                    isa.store(logits, &mut weights[g * stride + start + tile]);
                }
            }
            start += self.scales.len();
            // Rows that are not there have no weight.
            let missing = padded(run) - run.rows;
            for g in 0..groups {
                weights[g * stride + start - 1][TILE - missing..].fill(f32::NEG_INFINITY);
            }
        }
        for (g, weights) in weights.chunks_exact_mut(stride).enumerate() {
            let weights = weights.as_flattened_mut();
            state.max[g] = lanes::max(weights);
            state.sum[g] = lanes::exp_and_sum(weights, state.max[g]);
        }
        let mut start = 0;
        for run in piece.runs {
            read_scales(isa, &mut self.scales, run, run.values);
            let packed = run.format.is_packed();
            let sums = state.values[usize::from(packed)].as_chunks_mut::<LANES>().0;
            for (tile, scales) in self.scales.iter().enumerate() {
                let codes = &mut self.codes[..TILE * vectors];
                read(isa, codes, run, run.values, tile, d);
                for (g, sums) in sums.chunks_exact_mut(vectors).enumerate() {
                    let weights = &mut weights[g * stride + start + tile];
                    if packed {
                        isa.store(
                            isa.multiply(isa.floats(weights), isa.floats(scales)),
                            weights,
                        );
                    }
                    add(isa, sums, weights, codes);
                }
            }
            start += self.scales.len();
        }
    }
}

/// The codes of up to eight rows, those of tile `tile`; zeros where there are fewer.
#[inline(always)]
fn read<I: Isa>(
    isa: I,
    out: &mut [[f32; LANES]],
    run: &Run<'_>,
    half: rows::Half<'_>,
    tile: usize,
    d: usize,
) {
    let vectors = out.len() / TILE;
    let first = tile * TILE;
    let valid = TILE.min(run.rows - first);
    let bytes = run.format.code_bytes(d);
    let codes = &half.codes[first * bytes..(first + valid) * bytes];
    let (rows, missing) = out.split_at_mut(valid * vectors);
    if d == vectors * LANES {
        rows::widen(isa, run.format, codes, d, rows.as_flattened_mut());
    } else {
        for (codes, row) in codes
            .chunks_exact(bytes)
            .zip(rows.chunks_exact_mut(vectors))
        {
            rows::widen(isa, run.format, codes, d, &mut row.as_flattened_mut()[..d]);
        }
    }
    missing.fill([0.0; LANES]);
}

/// The scales of a run's rows in tiles; zeros for rows that are not there.
#[inline(always)]
fn read_scales<I: Isa>(isa: I, out: &mut Vec<[f32; TILE]>, run: &Run<'_>, half: rows::Half<'_>) {
    out.clear();
    out.resize(run.rows.div_ceil(TILE), [0.0; TILE]);
    let scales = &half.scales[..run.rows * run.format.scale_bytes()];
    rows::widen_scales(isa, scales, &mut out.as_flattened_mut()[..scales.len() / 2]);
}

/// Dot products of a query with eight rows.
#[inline(always)]
fn dot<I: Isa>(isa: I, query: &[[f32; LANES]], codes: &[[f32; LANES]]) -> I::Floats {
    let mut sums = [isa.splat(0.0); TILE];
    for (c, query) in query.iter().enumerate() {
        let query_part = isa.floats(query);
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = isa.multiply_add(
                query_part,
                isa.floats(&codes[row * codes.len() / TILE + c]),
                *sum,
            );
        }
    }
    isa.sums(sums)
}

/// Adds eight rows by their weights.
#[inline(always)]
fn add<I: Isa>(isa: I, sums: &mut [[f32; LANES]], weights: &[f32; TILE], codes: &[[f32; LANES]]) {
    let mut shares = [isa.splat(0.0); TILE];
    for (share, weight) in shares.iter_mut().zip(weights) {
        *share = isa.splat(*weight);
    }
    for (c, sum) in sums.iter_mut().enumerate() {
        let mut acc = isa.floats(sum);
        for (row, share) in shares.iter().enumerate() {
            acc = isa.multiply_add(
                *share,
                isa.floats(&codes[row * codes.len() / TILE + c]),
                acc,
            );
        }
        isa.store(acc, sum);
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
                        let relative = key.iter().zip(mean).map(|(key, mean)| key - mean);
                        rows::pack(
                            format,
                            &mut relative.collect::<Vec<_>>(),
                            key_codes,
                            key_scale,
                        );
                        rows::pack(format, &mut value.to_vec(), codes, scale);
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
