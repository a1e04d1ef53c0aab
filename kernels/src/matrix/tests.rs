//! Products against the readable form, and against themselves on other instructions and in other batches.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::reference;

/// Numbers in -1..1.
struct Draw(u64);

impl Draw {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as u32
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        let one = |_| self.bits() as f32 / (1 << 30) as f32 - 1.0;
        (0..len).map(one).collect()
    }

    /// Blocks of a format with any codes and sane scales.
    fn blocks(&mut self, format: BlockFormat, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let mut block: Vec<u8> = (0..format.bytes()).map(|_| self.bits() as u8).collect();
            let halves: &[usize] = match format {
                BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
                BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => {
                    &[0, 2]
                }
                BlockFormat::Q2K => &[80, 82],
                BlockFormat::Q3K => &[108],
                BlockFormat::Q6K => &[208],
            };
            for &at in halves {
                let half = f16::from_f32(self.values(1)[0] / 50.0);
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            bytes.extend(block);
        }
        bytes
    }

    /// `None`: f32.
    fn matrix(&mut self, format: Option<BlockFormat>, rows: usize, cols: usize) -> Matrix {
        match format {
            None => Matrix::dense(&self.values(rows * cols), rows, cols),
            Some(format) => {
                let bytes = self.blocks(format, rows * cols / format.weights());
                Matrix::quantised(format, &bytes, rows, cols)
            }
        }
    }
}

fn formats() -> impl Strategy<Value = Option<BlockFormat>> {
    let all: Vec<_> = BlockFormat::ALL
        .into_iter()
        .map(Some)
        .chain([None])
        .collect();
    prop::sample::select(all)
}

/// Columns that a format can have: some blocks of it, or any number.
fn columns(format: Option<BlockFormat>, some: usize) -> usize {
    format.map_or(some * (1 + some % 2 * 30), |format| {
        (some % 5 + 1) * format.weights()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn products_agree_with_the_reference(
        format in formats(), x_rows in 1usize..20, rows in 1usize..40, some in 1usize..70,
        seed in any::<u64>(),
    ) {
        let mut draw = Draw(seed);
        let cols = columns(format, some);
        let matrix = draw.matrix(format, rows, cols);
        let x = draw.values(x_rows * cols);
        let out = product(&x, &matrix);
        let weights = matrix.widen();
        let rounded = match format {
            Some(_) => x.chunks(32).flat_map(reference::round_to_8_bits).collect(),
            None => x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>(),
        };
        let slow = reference::product(&rounded, &weights, cols);
        prop_assert_eq!(out.len(), slow.len());
        for (fast, (slow, size)) in out.iter().zip(slow) {
            // Sums of f32 whose terms may cancel.
            prop_assert!((f64::from(*fast) - slow).abs() < 1e-6 + 2e-6 * size, "{fast} != {slow}");
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it(
        format in formats(), x_rows in 1usize..80, rows in 1usize..200, some in 1usize..70,
        seed in any::<u64>(),
    ) {
        let mut draw = Draw(seed);
        let cols = columns(format, some);
        let matrices = [draw.matrix(format, rows, cols), draw.matrix(None, 20, cols)];
        let x = draw.values(x_rows * cols);
        let together = products(&x, &[&matrices[0], &matrices[1]]);
        for (matrix, together) in matrices.iter().zip(together) {
            let alone: Vec<f32> = x.chunks(cols).flat_map(|x| product(x, matrix)).collect();
            prop_assert_eq!(together, alone);
        }
    }

    #[test]
    fn all_instructions_give_equal_bits(
        format in formats(), x_rows in 1usize..20, rows in 1usize..40, some in 1usize..70,
        seed in any::<u64>(),
    ) {
        let mut draw = Draw(seed);
        let cols = columns(format, some);
        let matrix = draw.matrix(format, rows, cols);
        let x = draw.values(x_rows * cols);
        let best = product(&x, &matrix);
        prop_assert_eq!(product::portable(&x, &matrix), best);
    }
}

#[test]
fn a_value_that_is_no_number_is_seen_in_the_answer() {
    let mut draw = Draw(1);
    for format in BlockFormat::ALL.into_iter().map(Some).chain([None]) {
        let matrix = draw.matrix(format, 3, 256);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = draw.values(2 * 256);
            x[256 + 77] = broken;
            let out = product(&x, &matrix);
            assert!(out[..3].iter().all(|y| y.is_finite()), "{format:?}");
            assert!(
                out[3..].iter().all(|y| !y.is_finite()),
                "{format:?} {broken}: {out:?}"
            );
        }
    }
}

#[test]
fn packed_weights_keep_nearly_their_size() {
    let shown: Vec<String> = BlockFormat::ALL
        .into_iter()
        .map(|format| {
            let stored = 8 * 256 / format.weights() * format.bytes();
            let matrix = Draw(1).matrix(Some(format), 8, 256);
            format!(
                "{format:?} {:.2}",
                matrix.bytes().len() as f64 / stored as f64
            )
        })
        .collect();
    let expected = "Q4_0 1.00, Q4_1 1.00, Q5_0 1.18, Q5_1 1.17, Q8_0 1.00, Q2K 1.95, Q3K 1.33, Q4K 1.03, Q5K 1.20, Q6K 1.00";
    assert_eq!(shown.join(", "), expected);
}

#[test]
fn rounding_to_8_bits_errs_by_half_a_step() {
    let mut draw = Draw(3);
    let values = draw.values(5 * 96);
    let read = Matrix::q8_0(&values, 5, 96).widen();
    for (block, read) in values.chunks(32).zip(read.chunks(32)) {
        let step = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
        for (x, read) in block.iter().zip(read) {
            assert!(
                (x - read).abs() < 0.51 * step,
                "{x} became {read}, steps of {step}"
            );
        }
    }
    assert_eq!(Matrix::q8_0(&[0.0; 32], 1, 32).widen(), [0.0; 32]);
}

#[test]
fn rows_of_nothing_but_odd_values_are_multiplied_without_a_panic() {
    let mut draw = Draw(2);
    for format in BlockFormat::ALL {
        let matrix = draw.matrix(Some(format), 3, 256);
        for (x, finite) in [
            (f32::NAN, false),
            (f32::INFINITY, false),
            (f32::NEG_INFINITY, false),
            (1e-40, true),
            (0.0, true),
            (f32::MIN_POSITIVE, true),
        ] {
            for y in product(&[x; 256], &matrix) {
                assert_eq!(y.is_finite(), finite, "{format:?} {x}: {y}");
            }
            assert_eq!(product::portable(&[x; 256], &matrix).len(), 3);
        }
    }
}
