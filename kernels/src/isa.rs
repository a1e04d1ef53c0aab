//! The vector instructions of the kernels: one trait, an implementation for AVX2 and one of plain arrays for
//! every other machine. All are exact or correctly rounded, so both give equal bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
pub(crate) use portable::Portable;

/// Eight lanes of 32 bits, seen as bytes, 16-bit words, integers or floats.
pub(crate) trait Isa: Copy {
    /// 32 unsigned bytes.
    type Bytes: Copy;
    /// 16 signed words.
    type Words: Copy;
    /// 8 signed integers.
    type Ints: Copy;
    /// 8 f32.
    type Floats: Copy;

    /// Asks for memory that is read soon.
    fn fetch(self, ahead: &[u8]);

    fn bytes(self, from: &[u8; 32]) -> Self::Bytes;
    /// `(bytes >> SHIFT) & mask`, byte by byte.
    fn field<const SHIFT: i32>(self, bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `low | high << 4`, byte by byte; `high` is below 16.
    fn join(self, low: Self::Bytes, high: Self::Bytes) -> Self::Bytes;
    /// Four signed bytes in each of the eight lanes.
    fn repeat(self, from: &[i8; 4]) -> Self::Bytes;

    fn no_words(self) -> Self::Words;
    fn add_words(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// `a[2i] b[2i] + a[2i + 1] b[2i + 1]`, `a` unsigned and `b` signed; the caller sees to it that no sum
    /// leaves 16 bits.
    fn multiply_pairs(self, a: Self::Bytes, b: Self::Bytes) -> Self::Words;
    /// The same for signed `a`; no byte of `b` is -128.
    fn multiply_signed_pairs(self, a: Self::Bytes, b: Self::Bytes) -> Self::Words;

    fn no_ints(self) -> Self::Ints;
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `a[2i] + a[2i + 1]`.
    fn sum_pairs(self, a: Self::Words) -> Self::Ints;

    fn splat(self, x: f32) -> Self::Floats;
    fn floats(self, from: &[f32; 8]) -> Self::Floats;
    fn store(self, from: Self::Floats, to: &mut [f32; 8]);
    fn widen_ints(self, ints: Self::Ints) -> Self::Floats;
    /// The lowest byte of each float's bits, as a signed number.
    fn low_bytes(self, from: Self::Floats) -> Self::Ints;
    /// The lanes in their order, each within a signed byte.
    fn narrow(self, from: [Self::Ints; 4]) -> [i8; 32];
    /// Of all lanes.
    fn sum_ints(self, from: Self::Ints) -> i32;
    /// The largest magnitude of all lanes; NaN if there is one.
    fn largest(self, from: [Self::Floats; 4]) -> f32;
    /// Eight numbers in half precision, little-endian.
    fn widen_halves(self, from: &[u8; 16]) -> Self::Floats;
    /// In lane `i` the sum of the lanes of vector `i`, taken in pairs of neighbours.
    fn sums(self, of: [Self::Floats; 8]) -> Self::Floats;
    /// Eight bytes, 0..=255.
    fn widen_unsigned(self, from: &[u8; 8]) -> Self::Floats;
    /// Eight signed bytes.
    fn widen_bytes(self, from: &[u8; 8]) -> Self::Floats;
    /// Exchanges lanes that lie DISTANCE apart: 1, 2 or 4.
    fn swap<const DISTANCE: usize>(self, x: Self::Floats) -> Self::Floats;
    /// To the nearest integer, ties to even.
    fn round(self, x: Self::Floats) -> Self::Floats;
    /// Some lane that is no number gives any value in between.
    fn clamp(self, x: Self::Floats, low: f32, high: f32) -> Self::Floats;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a b + c`, rounded once.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// Evaluates an expression with the best [`Isa`] of this machine bound to a name. The closure consumes a
/// value for the reason that [`crate::vectorised::vectorised`] gives.
macro_rules! with_isa {
    ($isa:ident => $body:expr) => {{
        #[cfg(target_arch = "x86_64")]
        let avx2 = crate::isa::Avx2::try_new();
        #[cfg(not(target_arch = "x86_64"))]
        let avx2: Option<crate::isa::Portable> = None;
        match avx2 {
            Some($isa) => {
                let once = crate::vectorised::Once;
                $isa.vectorize(
                    #[inline(always)]
                    || {
                        let _consumed: crate::vectorised::Once = once;
                        $body
                    },
                )
            }
            None => {
                let $isa = crate::isa::Portable;
                crate::vectorised::vectorised!({ $body })
            }
        }
    }};
}

pub(crate) use with_isa;
