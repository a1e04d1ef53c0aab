//! The left side of a product with quantised weights: rows of 8-bit codes with a scale for each 32.

use rayon::prelude::*;

use super::layout::BLOCK;
use crate::isa::{Isa, with_isa};

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
        Self::round(x, cols, |blocks, x| {
            with_isa!(isa => InputBlock::round_all(isa, blocks, x));
        })
    }

    /// [`Activations::new`] without the instructions of this machine.
    #[cfg(test)]
    pub(super) fn portable(x: &[f32], cols: usize) -> Self {
        let isa = crate::isa::Portable;
        Self::round(x, cols, |blocks, x| InputBlock::round_all(isa, blocks, x))
    }

    fn round(
        x: &[f32],
        cols: usize,
        round_all: impl Fn(&mut [InputBlock], &[[f32; BLOCK]]) + Sync,
    ) -> Self {
        assert!(x.len().is_multiple_of(cols) && cols.is_multiple_of(BLOCK));
        let (x, _) = x.as_chunks();
        let mut blocks = vec![InputBlock::default(); x.len()];
        let tasks = blocks.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
        tasks.for_each(|(blocks, x)| round_all(blocks, x));
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
    fn round_all<I: Isa>(isa: I, blocks: &mut [Self], x: &[[f32; BLOCK]]) {
        for (block, x) in blocks.iter_mut().zip(x) {
            *block = Self::round(isa, x);
        }
    }

    #[inline(always)]
    fn round<I: Isa>(isa: I, x: &[f32; BLOCK]) -> Self {
        // Loops: `map` is not inlined, and would be compiled for the baseline CPU.
        let mut floats = [isa.splat(0.0); 4];
        for (floats, x) in floats.iter_mut().zip(x.as_chunks().0) {
            *floats = isa.floats(x);
        }
        let largest = isa.largest(floats);
        let per_one = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let (per_one, round) = (isa.splat(per_one), isa.splat(ROUND));
        // What is not finite, or too small for `per_one` to be, may have any code.
        let mut codes = [isa.no_ints(); 4];
        for (codes, floats) in codes.iter_mut().zip(floats) {
            *codes = isa.low_bytes(isa.multiply_add(floats, per_one, round));
        }
        let first = isa.sum_ints(isa.add_ints(codes[0], codes[1]));
        let second = isa.sum_ints(isa.add_ints(codes[2], codes[3]));
        // NaN if a value is not finite.
        let scale = largest / 127.0 + 0.0 * largest;
        Self {
            codes: isa.narrow(codes),
            scale,
            sum: scale * (first + second) as f32,
            half_sums: [scale * first as f32, scale * second as f32],
        }
    }
}
