//! One byte per element: byte `u` is the code `u - 127.5`, so that levels lie evenly around 0.

use half::f16;

use super::{scale, steps_per_one};
use crate::isa::Isa;
use crate::lanes;

const MIDDLE: f32 = 127.5;

/// Bytes of `row`; the largest element gets the last level. Returns the scale.
#[inline(always)]
pub(super) fn encode(row: &[f32], bytes: &mut [u8]) -> f16 {
    let scale = scale(lanes::max_abs(row) / MIDDLE);
    let per_step = steps_per_one(scale);
    for (byte, x) in bytes.iter_mut().zip(row) {
        // The conversion cuts at 0 and 255.
        *byte = (x * per_step + MIDDLE).round_ties_even() as u8;
    }
    scale
}

#[inline(always)]
pub(super) fn widen<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let ((eights, last), (outs, last_outs)) = (bytes.as_chunks(), out.as_chunks_mut());
    for (bytes, out) in eights.iter().zip(outs) {
        isa.store(isa.add(isa.widen_unsigned(bytes), isa.splat(-MIDDLE)), out);
    }
    for (byte, out) in last.iter().zip(last_outs) {
        *out = f32::from(*byte) - MIDDLE;
    }
}
