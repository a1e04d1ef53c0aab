//! Half a byte per element: `u` from 0 to 15 is the code `u - 7.5`. Byte `i` of a row holds element `i` in
//! its low bits and element `i + D/2` in its high bits.

use half::f16;

use super::{scale, steps_per_one};
use crate::isa::Isa;
use crate::lanes;

const MIDDLE: f32 = 7.5;
const TOP: f32 = 15.0;

/// Scales that are tried, as shares of the one that just reaches the largest element. Few elements of a
/// rotated row come near that, so a finer scale that cuts them off is nearly always better.
const SHARES: [f32; 12] = [
    1.06, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5,
];

/// Bytes of `row`, at the scale with the least squared error. Returns the scale.
#[inline(always)]
pub(super) fn encode<I: Isa>(isa: I, row: &[f32], bytes: &mut [u8]) -> f16 {
    let reach = lanes::max_abs(row) / MIDDLE;
    let mut best = (f32::INFINITY, f16::ZERO);
    for share in SHARES {
        let scale = scale(reach * share);
        let step = scale.to_f32();
        if step > 0.0 {
            let error = squared_error(isa, row, step);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    let scale = best.1;
    let per_step = steps_per_one(scale);
    let (low, high) = row.split_at(row.len() / 2);
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = level(low * per_step) as u8 | (level(high * per_step) as u8) << 4;
    }
    scale
}

/// Of all elements at a scale.
#[inline(always)]
fn squared_error<I: Isa>(isa: I, row: &[f32], step: f32) -> f32 {
    let per_step = 1.0 / step;
    let mut sums = isa.splat(0.0);
    let (eights, last) = row.as_chunks();
    for x in eights {
        let x = isa.floats(x);
        let place = isa.multiply_add(x, isa.splat(per_step), isa.splat(MIDDLE));
        let level = isa.round(isa.clamp(place, 0.0, TOP));
        let code = isa.add(level, isa.splat(-MIDDLE));
        let error = isa.multiply_add(code, isa.splat(-step), x);
        sums = isa.multiply_add(error, error, sums);
    }
    let mut lanes = [0.0; 8];
    isa.store(sums, &mut lanes);
    let mut sum: f32 = lanes.iter().sum();
    for x in last {
        let error = (level(x * per_step) - MIDDLE) * step - x;
        sum += error * error;
    }
    sum
}

/// The nearest level, from 0 to 15.
#[inline(always)]
fn level(x: f32) -> f32 {
    (x + MIDDLE).round_ties_even().clamp(0.0, TOP)
}

#[inline(always)]
pub(super) fn widen<I: Isa>(isa: I, bytes: &[u8], head_dim: usize, out: &mut [f32]) {
    const NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let half = head_dim / 2;
    for (bytes, row) in bytes.chunks_exact(half).zip(out.chunks_exact_mut(head_dim)) {
        let (low, high) = row.split_at_mut(half);
        let (eights, last) = bytes.as_chunks::<8>();
        let (lows, last_low) = low.as_chunks_mut();
        let (highs, last_high) = high.as_chunks_mut();
        for ((bytes, low), high) in eights.iter().zip(lows).zip(highs) {
            let bytes = u64::from_le_bytes(*bytes);
            for (codes, out) in [(bytes, low), (bytes >> 4, high)] {
                let codes = isa.widen_unsigned(&(codes & NIBBLES).to_le_bytes());
                isa.store(isa.add(codes, isa.splat(-MIDDLE)), out);
            }
        }
        for ((byte, low), high) in last.iter().zip(last_low).zip(last_high) {
            *low = f32::from(byte & 15) - MIDDLE;
            *high = f32::from(byte >> 4) - MIDDLE;
        }
    }
}
