//! [`Isa`] on plain arrays.

use half::f16;

use super::Isa;

/// Any machine. The compiler makes of the loops what the machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Isa for Portable {
    type Bytes = [u8; 32];
    type Words = [i16; 16];
    type Ints = [i32; 8];
    type Floats = [f32; 8];

    #[inline(always)]
    fn fetch(self, _ahead: &[u8]) {}

    #[inline(always)]
    fn bytes(self, from: &[u8; 32]) -> [u8; 32] {
        *from
    }

    #[inline(always)]
    fn field<const SHIFT: i32>(self, bytes: [u8; 32], mask: u8) -> [u8; 32] {
        bytes.map(|byte| byte >> SHIFT & mask)
    }

    #[inline(always)]
    fn join(self, low: [u8; 32], high: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| low[i] | high[i] << 4)
    }

    #[inline(always)]
    fn repeat(self, from: &[i8; 4]) -> [u8; 32] {
        std::array::from_fn(|i| from[i % 4] as u8)
    }

    #[inline(always)]
    fn no_words(self) -> [i16; 16] {
        [0; 16]
    }

    #[inline(always)]
    fn add_words(self, a: [i16; 16], b: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn multiply_pairs(self, a: [u8; 32], b: [u8; 32]) -> [i16; 16] {
        let product = |i: usize| i16::from(a[i]) * i16::from(b[i] as i8);
        std::array::from_fn(|i| product(2 * i) + product(2 * i + 1))
    }

    #[inline(always)]
    fn multiply_signed_pairs(self, a: [u8; 32], b: [u8; 32]) -> [i16; 16] {
        let product = |i: usize| i16::from(a[i] as i8) * i16::from(b[i] as i8);
        std::array::from_fn(|i| product(2 * i).saturating_add(product(2 * i + 1)))
    }

    #[inline(always)]
    fn no_ints(self) -> [i32; 8] {
        [0; 8]
    }

    #[inline(always)]
    fn add_ints(self, a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sum_pairs(self, a: [i16; 16]) -> [i32; 8] {
        std::array::from_fn(|i| i32::from(a[2 * i]) + i32::from(a[2 * i + 1]))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }

    #[inline(always)]
    fn floats(self, from: &[f32; 8]) -> [f32; 8] {
        *from
    }

    #[inline(always)]
    fn store(self, from: [f32; 8], to: &mut [f32; 8]) {
        *to = from;
    }

    #[inline(always)]
    fn widen_ints(self, ints: [i32; 8]) -> [f32; 8] {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    fn low_bytes(self, from: [f32; 8]) -> [i32; 8] {
        from.map(|x| i32::from(x.to_bits() as i8))
    }

    #[inline(always)]
    fn narrow(self, from: [[i32; 8]; 4]) -> [i8; 32] {
        std::array::from_fn(|i| from[i / 8][i % 8] as i8)
    }

    #[inline(always)]
    fn sum_ints(self, from: [i32; 8]) -> i32 {
        from.iter().sum()
    }

    #[inline(always)]
    fn largest(self, from: [[f32; 8]; 4]) -> f32 {
        // Magnitudes have the order of their bits, and those of NaN are the largest.
        let bits = from.iter().flatten().map(|x| x.abs().to_bits());
        f32::from_bits(bits.max().expect("there are lanes"))
    }

    #[inline(always)]
    fn widen_halves(self, from: &[u8; 16]) -> [f32; 8] {
        std::array::from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn widen_unsigned(self, from: &[u8; 8]) -> [f32; 8] {
        from.map(f32::from)
    }

    #[inline(always)]
    fn widen_bytes(self, from: &[u8; 8]) -> [f32; 8] {
        from.map(|byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn sums(self, of: [[f32; 8]; 8]) -> [f32; 8] {
        std::array::from_fn(|i| {
            let x = of[i];
            ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
        })
    }

    #[inline(always)]
    fn swap<const DISTANCE: usize>(self, x: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| x[i ^ DISTANCE])
    }

    #[inline(always)]
    fn round(self, x: [f32; 8]) -> [f32; 8] {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn clamp(self, x: [f32; 8], low: f32, high: f32) -> [f32; 8] {
        x.map(|x| x.max(low).min(high))
    }

    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn multiply(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}
