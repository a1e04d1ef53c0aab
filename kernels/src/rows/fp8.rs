//! e4m3: a sign, 4 bits of exponent with bias 7, 3 bits of mantissa, no infinity. Finer near 0 and coarser
//! far from it than even levels of 8 bits.

use half::f16;

use super::{scale, steps_per_one};
use crate::lanes;

/// The largest number.
const MAX: f32 = 448.0;

/// What moves the exponent's bias from 7 to that of `f32`, as a factor and as an exponent.
const REBIAS: f32 = f32::from_bits((127 + EXPONENT_SHIFT) << 23);
const EXPONENT_SHIFT: u32 = 120;

/// Bytes of `row`; the largest element gets the largest number. Returns the scale.
#[inline(always)]
pub(super) fn encode(row: &[f32], bytes: &mut [u8]) -> f16 {
    let scale = scale(lanes::max_abs(row) / MAX);
    let per_step = steps_per_one(scale);
    for (byte, x) in bytes.iter_mut().zip(row) {
        *byte = nearest(x * per_step);
    }
    scale
}

/// The nearest number, ties to even; beyond the largest, the largest.
#[inline(always)]
fn nearest(x: f32) -> u8 {
    // As an f32 whose exponent has the narrow bias, so that small numbers are rounded as subnormals are.
    let narrow = (x.abs().min(MAX) / REBIAS).to_bits();
    let tie = narrow >> 20 & 1;
    let magnitude = (narrow + 0x7_ffff + tie) >> 20;
    (x.to_bits() >> 24 & 0x80) as u8 | magnitude as u8
}

#[inline(always)]
pub(super) fn widen(bytes: &[u8], out: &mut [f32]) {
    for (byte, out) in bytes.iter().zip(out) {
        let bits = u32::from(*byte);
        *out = f32::from_bits((bits & 0x80) << 24 | (bits & 0x7f) << 20) * REBIAS;
    }
}
