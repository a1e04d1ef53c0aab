//! Rows as they are stored, one file for each way: floats, and the packed formats, whose rows are
//! [rotated](crate::rotate) and scaled.
//!
//! A packed row reads as `scale * code` element by element, with codes as [`RowFormat`]'s file says. Keys
//! are packed relative to the mean key of their head over the prompt: some families have keys that share
//! a large offset, which would use up the codes, and for attention it is a constant per query.

mod float;
mod fp8;
mod int4;
mod int8;

use half::f16;
use lava_kv::RowFormat;
use rayon::prelude::*;

use crate::isa::{Isa, with_isa};
use crate::rotation::rotate;
use crate::vectorised::vectorised;

/// Consecutive entries of one head, of one form, as a page holds them.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// How they lie.
    pub format: RowFormat,
    /// How many.
    pub rows: usize,
    /// The key rows.
    pub keys: Half<'a>,
    /// The value rows.
    pub values: Half<'a>,
}

/// The key rows or the value rows of a run; what lies behind its last row is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Half<'a> {
    /// `[rows, code bytes]`; aligned to the elements of float formats.
    pub codes: &'a [u8],
    /// `[rows]` in half precision; empty for float formats.
    pub scales: &'a [u8],
}

/// Stores a row of a float format. `codes` are its bytes, aligned to its elements.
///
/// # Panics
/// If the format is packed, or the lengths do not fit.
pub fn store(format: RowFormat, row: &[f32], codes: &mut [u8]) {
    float::store(format, row, codes);
}

/// Rows of one head among all of a layer's.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows<'a> {
    /// `[N, Hkv, D]`.
    pub all: &'a [f32],
    /// Hkv.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Which head.
    pub head: usize,
}

impl<'a> HeadRows<'a> {
    /// The head's row of a position, `[D]`.
    pub fn row(&self, position: usize) -> &'a [f32] {
        &self.all[(position * self.kv_heads + self.head) * self.head_dim..][..self.head_dim]
    }
}

/// Rows that a thread packs at a time.
const PACKED_ROWS: usize = 32;

/// Packs the rows of some positions, rotated; keys relative to a mean (see [`mean_key`]). The answer is the
/// codes of all rows and then their scales, as they lie on the wire.
///
/// # Panics
/// If the format is not packed, or a position is not there.
pub fn pack_rows(
    format: RowFormat,
    rows: HeadRows<'_>,
    positions: &[usize],
    mean: Option<&[f32]>,
) -> Vec<u8> {
    let (code_bytes, scale_bytes) = (format.code_bytes(rows.head_dim), format.scale_bytes());
    let mut packed = vec![0; positions.len() * (code_bytes + scale_bytes)];
    let (codes, scales) = packed.split_at_mut(positions.len() * code_bytes);
    codes
        .par_chunks_mut(PACKED_ROWS * code_bytes)
        .zip(scales.par_chunks_mut(PACKED_ROWS * scale_bytes))
        .zip(positions.par_chunks(PACKED_ROWS))
        .for_each_init(
            || vec![0.0; rows.head_dim],
            |row, ((codes, scales), positions)| {
                let codes = codes.chunks_exact_mut(code_bytes);
                let places = codes.zip(scales.chunks_exact_mut(scale_bytes));
                for ((codes, scale), &position) in places.zip(positions) {
                    row.copy_from_slice(rows.row(position));
                    if let Some(mean) = mean {
                        row.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
                    }
                    pack(format, row, codes, scale);
                }
            },
        );
    packed
}

/// Packs one row, which is rotated on the way. `codes` and `scale` are its bytes.
pub(crate) fn pack(format: RowFormat, row: &mut [f32], codes: &mut [u8], scale: &mut [u8]) {
    rotate(row);
    let scale_of_row = with_isa!(isa => {
        match format {
            RowFormat::Int8 => int8::encode(row, codes),
            RowFormat::Fp8 => fp8::encode(row, codes),
            RowFormat::Int4 => int4::encode(isa, row, codes),
            RowFormat::F32 | RowFormat::F16 | RowFormat::Bf16 => {
                unreachable!("float rows are stored")
            }
        }
    });
    scale.copy_from_slice(&scale_of_row.to_le_bytes());
}

/// The mean key of one head over the prompt, rounded to half precision, as packed rows are relative to it and
/// as it travels. Zeros for an empty prompt.
pub fn mean_key(keys: HeadRows<'_>) -> Vec<f32> {
    let mut sums = vec![0.0f64; keys.head_dim];
    let tokens = keys.all.len() / (keys.kv_heads * keys.head_dim);
    vectorised!({
        for position in 0..tokens {
            for (sum, x) in sums.iter_mut().zip(keys.row(position)) {
                *sum += f64::from(*x);
            }
        }
    });
    let count = tokens.max(1) as f64;
    let round = |sum: f64| f16::from_f64(sum / count).to_f32().clamp(-65504.0, 65504.0);
    sums.into_iter().map(round).collect()
}

/// The codes of rows as numbers, without their scales: `[rows, D]` into `out`. Compiled for the instructions
/// of its caller.
#[inline(always)]
pub(crate) fn widen<I: Isa>(
    isa: I,
    format: RowFormat,
    codes: &[u8],
    head_dim: usize,
    out: &mut [f32],
) {
    match format {
        RowFormat::F32 | RowFormat::F16 | RowFormat::Bf16 => float::widen(isa, format, codes, out),
        RowFormat::Int8 => int8::widen(isa, codes, out),
        RowFormat::Fp8 => fp8::widen(codes, out),
        RowFormat::Int4 => int4::widen(isa, codes, head_dim, out),
    }
}

/// The scales of rows, `[rows]` into `out`. Compiled for the instructions of its caller.
#[inline(always)]
pub(crate) fn widen_scales<I: Isa>(isa: I, scales: &[u8], out: &mut [f32]) {
    float::widen(isa, RowFormat::F16, scales, out);
}

/// A scale that reads back as it is used: rounded, and finite.
fn scale(x: f32) -> f16 {
    f16::from_f32(x.min(65504.0))
}

/// `1 / scale`; 0 for a row that reads as zeros.
fn steps_per_one(scale: f16) -> f32 {
    match scale.to_f32() {
        0.0 => 0.0,
        step => 1.0 / step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Portable;
    use crate::reference;
    use proptest::prelude::*;

    /// A row through its stored form, read by the reference.
    fn round_trip(format: RowFormat, row: &[f32]) -> Vec<f64> {
        let mut codes = vec![0u32; row.len()];
        let codes = &mut bytemuck::cast_slice_mut(&mut codes)[..format.code_bytes(row.len())];
        let mut scale = vec![0; format.scale_bytes()];
        match format.is_packed() {
            true => pack(format, &mut row.to_vec(), codes, &mut scale),
            false => store(format, row, codes),
        }
        reference::read_row(format, codes, &scale)
    }

    /// Root-mean-square error over root-mean-square value.
    fn error(format: RowFormat, row: &[f32]) -> f64 {
        let read = round_trip(format, row);
        let squares = |sum: f64, x: f64| sum + x * x;
        let errors = row.iter().zip(&read).map(|(x, read)| f64::from(*x) - read);
        let values = row.iter().map(|x| f64::from(*x)).fold(0.0, squares);
        (errors.fold(0.0, squares) / values).sqrt()
    }

    /// Normal numbers, nearly: sums of twelve even ones.
    fn normal_row(len: usize, mut seed: u64) -> Vec<f32> {
        let mut even = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| (0..12).map(|_| even()).sum()).collect()
    }

    #[test]
    fn formats_err_as_much_as_their_bits_say() {
        // 16 even levels at the best step err 0.1075 on normal numbers (Max 1960); a row's own best step
        // does a little better. An element of e4m3 errs by up to 1/16 of itself, 0.026 on average.
        for (format, most) in [
            (RowFormat::F32, 1e-9),
            (RowFormat::F16, 3e-4),
            (RowFormat::Bf16, 3e-3),
            (RowFormat::Int8, 8e-3),
            (RowFormat::Fp8, 0.028),
            (RowFormat::Int4, 0.108),
        ] {
            let errors = (0..200).map(|seed| error(format, &normal_row(64, seed)));
            let mean = errors.sum::<f64>() / 200.0;
            assert!(
                mean < most && mean >= most / 4.0 * f64::from(format.is_packed()),
                "{format}: {mean}"
            );
        }
    }

    #[test]
    fn one_large_channel_costs_a_packed_row_little() {
        for (format, most) in [
            (RowFormat::Int8, 0.01),
            (RowFormat::Fp8, 0.04),
            (RowFormat::Int4, 0.12),
        ] {
            let mut row = normal_row(64, 3);
            row[17] = 50.0;
            let found = error(format, &row);
            assert!(found < most, "{format}: {found}");
        }
    }

    #[test]
    fn zeros_and_rows_beyond_all_scales_read_as_finite_numbers() {
        for format in RowFormat::ALL {
            assert!(
                round_trip(format, &[0.0; 8]).iter().all(|x| *x == 0.0),
                "{format}"
            );
        }
        for format in [RowFormat::Int8, RowFormat::Fp8, RowFormat::Int4] {
            for x in [1e-30, 1e30, f32::MAX, f32::INFINITY, f32::NAN] {
                let read = round_trip(format, &[x, 1.0, -1.0, 2.0]);
                assert!(read.iter().all(|x| x.is_finite()), "{format} {x}: {read:?}");
            }
        }
    }

    #[test]
    fn every_byte_of_e4m3_reads_back_as_itself() {
        let numbers: Vec<u8> = (0..=255).filter(|b| b & 0x7f != 0x7f).collect();
        let mut wide = vec![0.0; numbers.len()];
        widen(Portable, RowFormat::Fp8, &numbers, numbers.len(), &mut wide);
        let mut bytes = vec![0; numbers.len()];
        assert_eq!(fp8::encode(&wide, &mut bytes).to_f32(), 1.0);
        assert_eq!(bytes, numbers);
        // Between 16 and 18, 18 and 20, 2^-9 and 2^-8: the even mantissa.
        let ties = [448.0, 17.0, 19.0, 1.5 / 512.0];
        let (mut bytes, mut read) = ([0; 4], [0.0; 4]);
        fp8::encode(&ties, &mut bytes);
        widen(Portable, RowFormat::Fp8, &bytes, 4, &mut read);
        assert_eq!(read, [448.0, 16.0, 20.0, 1.0 / 256.0]);
    }

    proptest! {
        #[test]
        fn all_instructions_pack_equal_bits(half in 1usize..70, seed in any::<u64>()) {
            let row = normal_row(2 * half, seed);
            let (mut best, mut plain) = (vec![0; half], vec![0; half]);
            let scale = with_isa!(isa => int4::encode(isa, &row, &mut best));
            prop_assert_eq!(int4::encode(Portable, &row, &mut plain), scale);
            prop_assert_eq!(plain, best);
        }

        #[test]
        fn rows_read_as_the_reference_reads_them(
            format in prop::sample::select(RowFormat::ALL.to_vec()),
            half in 1usize..70, rows in 1usize..5, seed in any::<u64>(),
        ) {
            let d = 2 * half;
            let mut codes = vec![0u32; rows * d];
            let codes = &mut bytemuck::cast_slice_mut::<_, u8>(&mut codes)[..rows * format.code_bytes(d)];
            let mut scales = vec![0u8; rows * format.scale_bytes()];
            let code_bytes = format.code_bytes(d);
            for row in 0..rows {
                let values = normal_row(d, seed.wrapping_add(row as u64));
                let codes = &mut codes[row * code_bytes..][..code_bytes];
                match format.is_packed() {
                    true => pack(format, &mut values.clone(), codes, &mut scales[2 * row..][..2]),
                    false => store(format, &values, codes),
                }
            }
            let mut wide = vec![f32::NAN; rows * d];
            with_isa!(isa => widen(isa, format, codes, d, &mut wide));
            let mut factors = vec![1.0; rows];
            widen_scales(Portable, &scales, &mut factors);
            for row in 0..rows {
                let mut fast: Vec<f32> = wide[row * d..][..d].iter().map(|x| x * factors[row]).collect();
                if format.is_packed() {
                    crate::rotate_back(&mut fast);
                }
                let scale = &scales[row * format.scale_bytes()..][..format.scale_bytes()];
                let slow = reference::read_row(format, &codes[row * code_bytes..][..code_bytes], scale);
                for (fast, slow) in fast.iter().zip(slow) {
                    prop_assert!((f64::from(*fast) - slow).abs() < 1e-5, "{format}: {fast} != {slow}");
                }
            }
        }

        #[test]
        fn keys_are_packed_relative_to_the_mean(seed in any::<u64>()) {
            let (kv_heads, d, n) = (3, 16, 40);
            let mut keys = normal_row(n * kv_heads * d, seed);
            keys.iter_mut().for_each(|x| *x += 300.0);
            let rows = HeadRows { all: &keys, kv_heads, head_dim: d, head: 1 };
            let mean = mean_key(rows);
            let packed = pack_rows(RowFormat::Int8, rows, &[7, 5], Some(&mean));
            // Codes of both, then their scales.
            let (codes, scales) = packed.split_at(2 * d);
            let read = reference::read_row(RowFormat::Int8, &codes[d..], &scales[2..]);
            let key = rows.row(5);
            for ((read, mean), key) in read.iter().zip(&mean).zip(key) {
                prop_assert!((read + f64::from(*mean) - f64::from(*key)).abs() < 0.05);
            }
        }
    }
}
