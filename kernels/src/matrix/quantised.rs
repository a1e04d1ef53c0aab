//! Products with quantised weights: integers inside a run of weights, f32 between runs.
//!
//! Every output is one chain of operations in the order of its weights, whatever rows stand beside it. So a
//! product does not depend on the batch that it is part of, to the bit, nor on the machine.

use super::activations::{Activations, InputBlock};
use super::layout::{Codes, Layout, Min, PANEL_ROWS};
use crate::isa::Isa;

/// A layout as a type, so that a kernel is compiled for each.
pub(super) trait Format {
    const LAYOUT: Layout;
}

/// Products of input rows `first..first + M` with the eight rows of a panel: `out` is `[M, 8]`. `ahead` is what is
/// multiplied next, a panel or nothing: the CPU by itself looks ahead too little.
#[inline(always)]
pub(super) fn tile<F: Format, I: Isa, const M: usize>(
    isa: I,
    panel: &[u8],
    ahead: &[u8],
    x: &Activations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]; M],
) {
    let layout = const { F::LAYOUT };
    let rows: [&[InputBlock]; M] = std::array::from_fn(|m| x.row(first + m));
    let mut acc = [isa.splat(0.0); M];
    let mut index = 0;
    let mut ahead = ahead.chunks_exact(layout.group_bytes());
    for group in panel.chunks_exact(layout.group_bytes()) {
        if let Some(ahead) = ahead.next() {
            isa.fetch(ahead);
        }
        let (units, blocks) = group.split_at(layout.unit_bytes());
        let units = Units::read::<F>(isa, units);
        for block in blocks.chunks_exact(layout.block_bytes()) {
            let (codes, scales) = block.split_at(layout.code_bytes());
            let inputs: [&InputBlock; M] = std::array::from_fn(|m| &rows[m][index]);
            let sums = dot::<F, I, M>(isa, codes, &inputs);
            let (scales, _) = scales.as_chunks::<8>();
            for (run, sums) in sums.iter().enumerate().take(layout.runs()) {
                let (scale, min) = units.scale_and_min::<F>(isa, scales, run);
                for m in 0..M {
                    let step = isa.multiply(scale, isa.splat(inputs[m].scale));
                    acc[m] = isa.multiply_add(isa.widen_ints(sums[m]), step, acc[m]);
                    if !matches!(layout.min, Min::Zero) {
                        let sum = match layout.run {
                            16 => inputs[m].half_sums[run],
                            _ => inputs[m].sum,
                        };
                        acc[m] = isa.multiply_add(min, isa.splat(sum), acc[m]);
                    }
                }
            }
            index += 1;
        }
    }
    for (acc, out) in acc.iter().zip(out) {
        isa.store(*acc, out);
    }
}

/// Integer sums of `code * input code` over the runs of a block: `[runs, M]`, eight lanes each.
#[inline(always)]
fn dot<F: Format, I: Isa, const M: usize>(
    isa: I,
    codes: &[u8],
    inputs: &[&InputBlock; M],
) -> [[I::Ints; M]; 2] {
    let layout = const { F::LAYOUT };
    let vectors = codes.as_chunks::<32>().0;
    let inputs: [&[[i8; 4]]; M] = inputs.map(|input| input.codes.as_chunks().0);
    let mut sums = [[isa.no_ints(); M]; 2];
    match layout.codes {
        // 8 steps of 2 products of at most 15 * 127 stay below 2^15.
        Codes::Four if layout.run == 32 => {
            let mut words = [isa.no_words(); M];
            for v in 0..4 {
                let both = isa.bytes(&vectors[v]);
                let (low, high) = (isa.field::<0>(both, 15), isa.field::<4>(both, 15));
                for m in 0..M {
                    let product = isa.multiply_pairs(low, isa.repeat(&inputs[m][v]));
                    words[m] = isa.add_words(words[m], product);
                    let product = isa.multiply_pairs(high, isa.repeat(&inputs[m][v + 4]));
                    words[m] = isa.add_words(words[m], product);
                }
            }
            sums[0] = words.map(|words| isa.sum_pairs(words));
        }
        Codes::Four => {
            let mut words = [[isa.no_words(); M]; 2];
            for v in 0..4 {
                let both = isa.bytes(&vectors[v]);
                let (low, high) = (isa.field::<0>(both, 15), isa.field::<4>(both, 15));
                for m in 0..M {
                    let product = isa.multiply_pairs(low, isa.repeat(&inputs[m][v]));
                    words[0][m] = isa.add_words(words[0][m], product);
                    let product = isa.multiply_pairs(high, isa.repeat(&inputs[m][v + 4]));
                    words[1][m] = isa.add_words(words[1][m], product);
                }
            }
            sums = words.map(|words| words.map(|words| isa.sum_pairs(words)));
        }
        // 2 steps of 2 products of at most 63 * 127 stay below 2^15.
        Codes::Six => {
            for part in 0..2 {
                let sums = &mut sums[part % layout.runs()];
                let highs = isa.bytes(&vectors[4 + part]);
                for pair in 0..2 {
                    let (v, t) = (2 * pair, 4 * part + 2 * pair);
                    let (even, odd) = (isa.bytes(&vectors[v]), isa.bytes(&vectors[v + 1]));
                    let (even, odd) = match part {
                        0 => (isa.field::<0>(even, 15), isa.field::<0>(odd, 15)),
                        _ => (isa.field::<4>(even, 15), isa.field::<4>(odd, 15)),
                    };
                    let (even_high, odd_high) = match pair {
                        0 => (isa.field::<0>(highs, 3), isa.field::<2>(highs, 3)),
                        _ => (isa.field::<4>(highs, 3), isa.field::<6>(highs, 3)),
                    };
                    let (even, odd) = (isa.join(even, even_high), isa.join(odd, odd_high));
                    for m in 0..M {
                        let words = isa.add_words(
                            isa.multiply_pairs(even, isa.repeat(&inputs[m][t])),
                            isa.multiply_pairs(odd, isa.repeat(&inputs[m][t + 1])),
                        );
                        sums[m] = isa.add_ints(sums[m], isa.sum_pairs(words));
                    }
                }
            }
        }
        // 2 products of at most 128 * 127 stay below 2^15.
        Codes::Eight => {
            for step in 0..8 {
                let weights = isa.bytes(&vectors[step]);
                for m in 0..M {
                    let input = isa.repeat(&inputs[m][step]);
                    let words = isa.multiply_signed_pairs(weights, input);
                    sums[0][m] = isa.add_ints(sums[0][m], isa.sum_pairs(words));
                }
            }
        }
    }
    sums
}

/// Units of a group's scales and mins; unused where scales are stored as they are.
#[derive(Clone, Copy)]
struct Units<I: Isa> {
    scale: I::Floats,
    /// Negative: mins of the K formats are subtracted.
    min: I::Floats,
}

impl<I: Isa> Units<I> {
    #[inline(always)]
    fn read<F: Format>(isa: I, bytes: &[u8]) -> Self {
        let layout = const { F::LAYOUT };
        let (halves, _) = bytes.as_chunks::<16>();
        let none = isa.splat(0.0);
        Self {
            scale: if layout.units {
                isa.widen_halves(&halves[0])
            } else {
                none
            },
            min: match layout.units && layout.stores_mins() {
                true => isa.multiply(isa.widen_halves(&halves[1]), isa.splat(-1.0)),
                false => none,
            },
        }
    }

    /// Of run `run` of a block whose scales and mins are `bytes`.
    #[inline(always)]
    fn scale_and_min<F: Format>(
        self,
        isa: I,
        bytes: &[[u8; 8]],
        run: usize,
    ) -> (I::Floats, I::Floats) {
        let layout = const { F::LAYOUT };
        let stride = if layout.stores_mins() { 2 } else { 1 };
        let stored = stored_scales::<F, I>(isa, bytes, stride * run);
        let scale = match layout.units {
            true => isa.multiply(stored, self.scale),
            false => stored,
        };
        let min = match layout.min {
            Min::Zero => isa.splat(0.0),
            Min::Offset(scales) => isa.multiply(scale, isa.splat(-f32::from(scales))),
            Min::Stored if layout.units => isa.multiply(
                stored_scales::<F, I>(isa, bytes, stride * run + 1),
                self.min,
            ),
            Min::Stored => stored_scales::<F, I>(isa, bytes, stride * run + 1),
        };
        (scale, min)
    }
}

/// Scales or mins `index` of a block: bytes, or halves.
#[inline(always)]
fn stored_scales<F: Format, I: Isa>(isa: I, bytes: &[[u8; 8]], index: usize) -> I::Floats {
    match const { F::LAYOUT.units } {
        true => isa.widen_bytes(&bytes[index]),
        false => {
            let (halves, _) = bytes.as_flattened().as_chunks::<16>();
            isa.widen_halves(&halves[index])
        }
    }
}
