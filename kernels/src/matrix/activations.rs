//! The left side of a product with quantised weights: rows of 8-bit codes with a scale for each 32.

use rayon::prelude::*;

use super::layout::BLOCK;
use crate::lanes;
use crate::vectorised::vectorised;

/// Input values from which rows are read by several threads.
const PARALLEL_MIN: usize = 1 << 15;

/// Input rows `[rows, cols]`.
#[derive(Debug, Default)]
pub(super) struct Activations {
    blocks: usize,
    codes: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    half_sums: Vec<f32>,
}

impl Activations {
    /// `x` is `[rows, cols]`; `cols` is a multiple of 32. Each block is rounded to the 255 multiples of a
    /// 127th of its largest value. A block with a value that is not finite has the scale NaN.
    pub(super) fn new(x: &[f32], cols: usize) -> Self {
        assert!(x.len().is_multiple_of(cols) && cols.is_multiple_of(BLOCK));
        let (count, blocks) = (x.len() / BLOCK, cols / BLOCK);
        let mut all = Self {
            blocks,
            codes: vec![[0; BLOCK]; count],
            scales: vec![0.0; count],
            sums: vec![0.0; count],
            half_sums: vec![0.0; 2 * count],
        };
        let rows = x
            .par_chunks_exact(cols)
            .zip(all.codes.par_chunks_exact_mut(blocks))
            .zip(all.scales.par_chunks_exact_mut(blocks))
            .zip(all.sums.par_chunks_exact_mut(blocks))
            .zip(all.half_sums.par_chunks_exact_mut(2 * blocks))
            .with_min_len((PARALLEL_MIN / cols).max(1));
        rows.for_each(|((((x, codes), scales), sums), half_sums)| {
            vectorised!({
                let (x, _) = x.as_chunks::<BLOCK>();
                let (half_sums, _) = half_sums.as_chunks_mut::<2>();
                for (index, x) in x.iter().enumerate() {
                    let scale = encode(x, &mut codes[index]);
                    let (first, second) = codes[index].split_at(BLOCK / 2);
                    let (first, second) = (sum(first), sum(second));
                    scales[index] = scale;
                    sums[index] = scale * (first + second) as f32;
                    half_sums[index] = [scale * first as f32, scale * second as f32];
                }
            });
        });
        all
    }

    pub(super) fn cols(&self) -> usize {
        self.blocks * BLOCK
    }

    /// The codes of a row, in blocks.
    #[inline(always)]
    pub(super) fn codes(&self, row: usize) -> &[[i8; BLOCK]] {
        &self.codes[row * self.blocks..][..self.blocks]
    }

    /// The scale of each block.
    #[inline(always)]
    pub(super) fn scales(&self, row: usize) -> &[f32] {
        &self.scales[row * self.blocks..][..self.blocks]
    }

    /// The sum of each block, as its codes say.
    #[inline(always)]
    pub(super) fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.blocks..][..self.blocks]
    }

    /// The sums of the halves of each block.
    #[inline(always)]
    pub(super) fn half_sums(&self, row: usize) -> &[f32] {
        &self.half_sums[row * 2 * self.blocks..][..2 * self.blocks]
    }
}

/// The codes of a block; returns their scale.
#[inline(always)]
fn encode(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> f32 {
    let largest = lanes::max_abs(x);
    let per_one = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * per_one).round_ties_even() as i8;
    }
    // 0, or NaN if a value is not finite.
    let poison = lanes::sum_by(x, |x| x * 0.0);
    largest / 127.0 + poison
}

#[inline(always)]
fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}
