//! The left side of a product with quantised weights: rows of 8-bit codes with a scale for each 32.

use rayon::prelude::*;

use super::layout::BLOCK;
use crate::lanes;
use crate::vectorised::vectorised;

/// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// Blocks of a task.
const TASK: usize = 1 << 10;

/// Input rows `[rows, cols]`, each as blocks.
#[derive(Debug)]
pub(super) struct Activations {
    row_blocks: usize,
    blocks: Vec<InputBlock>,
}

/// 32 values: `scale * code` each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InputBlock {
    pub(super) codes: [i8; BLOCK],
    pub(super) scale: f32,
    /// Of the values, as their codes say.
    pub(super) sum: f32,
    /// Of their halves.
    pub(super) half_sums: [f32; 2],
}

impl Activations {
    /// `x` is `[rows, cols]`; `cols` is a multiple of 32. Each block is rounded to the 255 multiples of a
    /// 127th of its largest value. A block with a value that is not finite has the scale NaN.
    pub(super) fn new(x: &[f32], cols: usize) -> Self {
        assert!(x.len().is_multiple_of(cols) && cols.is_multiple_of(BLOCK));
        let mut blocks = vec![InputBlock::default(); x.len() / BLOCK];
        blocks
            .par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK * BLOCK))
            .for_each(|(blocks, x)| {
                vectorised!({
                    let (x, _) = x.as_chunks::<BLOCK>();
                    for (block, x) in blocks.iter_mut().zip(x) {
                        *block = InputBlock::round(x);
                    }
                });
            });
        let row_blocks = cols / BLOCK;
        Self { row_blocks, blocks }
    }

    /// Blocks of a row.
    pub(super) fn row_blocks(&self) -> usize {
        self.row_blocks
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &[InputBlock] {
        &self.blocks[row * self.row_blocks..][..self.row_blocks]
    }
}

impl InputBlock {
    #[inline(always)]
    fn round(x: &[f32; BLOCK]) -> Self {
        let largest = lanes::max_abs(x);
        let per_one = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // What is not finite, or too small for `per_one` to be, has zeros in its low bits. Loops, since `map` on arrays is not inlined and would be compiled for the baseline CPU.
        let mut whole = [0; BLOCK];
        for (whole, x) in whole.iter_mut().zip(x) {
            let low_bits = x.mul_add(per_one, ROUND).to_bits() as i8;
            *whole = i32::from(low_bits);
        }
        let mut codes = [0; BLOCK];
        for (code, whole) in codes.iter_mut().zip(whole) {
            *code = whole as i8;
        }
        // 0, or NaN if a value is not finite.
        let poison = lanes::sum_by(x, |x| x * 0.0);
        let scale = largest / 127.0 + poison;
        let (first, second) = whole.split_at(BLOCK / 2);
        let (first, second): (i32, i32) = (first.iter().sum(), second.iter().sum());
        Self {
            codes,
            scale,
            sum: scale * (first + second) as f32,
            half_sums: [scale * first as f32, scale * second as f32],
        }
    }
}
