//! [`Isa`] on AVX2, with FMA and half-precision conversion: every x86-64 server since 2013.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_prefetch, _mm256_cvtph_ps,
};

use pulp::cast;

use super::Isa;

pulp::simd_type!({
    /// Proof that the machine has the instructions.
    pub(crate) struct Avx2 {
        sse2: f!("sse2"),
        avx: f!("avx"),
        avx2: f!("avx2"),
        fma: f!("fma"),
        f16c: f!("f16c"),
    }
});

impl Isa for Avx2 {
    type Bytes = __m256i;
    type Words = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    #[inline(always)]
    fn fetch(self, ahead: &[u8]) {
        for line in ahead.chunks(64) {
            // SAFETY: every x86-64 has the instruction, and it only hints.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 32]) -> __m256i {
        cast(*from)
    }

    #[inline(always)]
    fn field<const SHIFT: i32>(self, bytes: __m256i, mask: u8) -> __m256i {
        let shifted = match SHIFT {
            0 => bytes,
            _ => self.avx2._mm256_srli_epi16::<SHIFT>(bytes),
        };
        let mask = self.avx._mm256_set1_epi8(mask as i8);
        self.avx2._mm256_and_si256(shifted, mask)
    }

    #[inline(always)]
    fn join(self, low: __m256i, high: __m256i) -> __m256i {
        // The bytes are below 16, so nothing crosses into the neighbour.
        let high = self.avx2._mm256_slli_epi16::<4>(high);
        self.avx2._mm256_or_si256(low, high)
    }

    #[inline(always)]
    fn repeat(self, from: &[i8; 4]) -> __m256i {
        self.avx._mm256_set1_epi32(cast(*from))
    }

    #[inline(always)]
    fn no_words(self) -> __m256i {
        self.avx._mm256_setzero_si256()
    }

    #[inline(always)]
    fn add_words(self, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_add_epi16(a, b)
    }

    #[inline(always)]
    fn multiply_pairs(self, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_maddubs_epi16(a, b)
    }

    #[inline(always)]
    fn multiply_signed_pairs(self, a: __m256i, b: __m256i) -> __m256i {
        let signed = self.avx2._mm256_sign_epi8(b, a);
        self.avx2
            ._mm256_maddubs_epi16(self.avx2._mm256_abs_epi8(a), signed)
    }

    #[inline(always)]
    fn no_ints(self) -> __m256i {
        self.avx._mm256_setzero_si256()
    }

    #[inline(always)]
    fn add_ints(self, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_add_epi32(a, b)
    }

    #[inline(always)]
    fn sum_pairs(self, a: __m256i) -> __m256i {
        self.avx2
            ._mm256_madd_epi16(a, self.avx._mm256_set1_epi16(1))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        self.avx._mm256_set1_ps(x)
    }

    #[inline(always)]
    fn floats(self, from: &[f32; 8]) -> __m256 {
        cast(*from)
    }

    #[inline(always)]
    fn store(self, from: __m256, to: &mut [f32; 8]) {
        *to = cast(from);
    }

    #[inline(always)]
    fn widen_ints(self, ints: __m256i) -> __m256 {
        self.avx._mm256_cvtepi32_ps(ints)
    }

    #[inline(always)]
    fn low_bytes(self, from: __m256) -> __m256i {
        let high = self.avx2._mm256_slli_epi32::<24>(cast(from));
        self.avx2._mm256_srai_epi32::<24>(high)
    }

    #[inline(always)]
    fn narrow(self, from: [__m256i; 4]) -> [i8; 32] {
        let first = self.avx2._mm256_packs_epi32(from[0], from[1]);
        let second = self.avx2._mm256_packs_epi32(from[2], from[3]);
        let bytes = self.avx2._mm256_packs_epi16(first, second);
        // Four bytes of each vector's low half, then of each one's high half.
        let order = self.avx._mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        cast(self.avx2._mm256_permutevar8x32_epi32(bytes, order))
    }

    #[inline(always)]
    fn sum_ints(self, from: __m256i) -> i32 {
        let halves = self.avx2._mm256_permute4x64_epi64::<0b01_00_11_10>(from);
        let four = self.avx2._mm256_add_epi32(from, halves);
        let pairs = self.avx2._mm256_shuffle_epi32::<0b00_00_11_10>(four);
        let two = self.avx2._mm256_add_epi32(four, pairs);
        let neighbours = self.avx2._mm256_shuffle_epi32::<1>(two);
        let one = self.avx2._mm256_add_epi32(two, neighbours);
        self.avx2._mm256_extract_epi32::<0>(one)
    }

    #[inline(always)]
    fn largest(self, from: [__m256; 4]) -> f32 {
        // Magnitudes have the order of their bits, and those of NaN are the largest.
        let mask = self.avx._mm256_set1_epi32(i32::MAX);
        let mut eight = self.avx._mm256_setzero_si256();
        for floats in from {
            let magnitudes = self.avx2._mm256_and_si256(cast(floats), mask);
            eight = self.avx2._mm256_max_epi32(eight, magnitudes);
        }
        let halves = self.avx2._mm256_permute4x64_epi64::<0b01_00_11_10>(eight);
        let four = self.avx2._mm256_max_epi32(eight, halves);
        let pairs = self.avx2._mm256_shuffle_epi32::<0b00_00_11_10>(four);
        let two = self.avx2._mm256_max_epi32(four, pairs);
        let neighbours = self.avx2._mm256_shuffle_epi32::<1>(two);
        let one = self.avx2._mm256_max_epi32(two, neighbours);
        f32::from_bits(self.avx2._mm256_extract_epi32::<0>(one) as u32)
    }

    #[inline(always)]
    fn widen_halves(self, from: &[u8; 16]) -> __m256 {
        let halves: __m128i = cast(*from);
        let _has: pulp::core_arch::x86::F16c = self.f16c;
        // SAFETY: the token above proves that the machine has F16C.
        unsafe { _mm256_cvtph_ps(halves) }
    }

    #[inline(always)]
    fn widen_unsigned(self, from: &[u8; 8]) -> __m256 {
        let bytes: [u64; 2] = [u64::from_le_bytes(*from), 0];
        let ints = self.avx2._mm256_cvtepu8_epi32(cast(bytes));
        self.avx._mm256_cvtepi32_ps(ints)
    }

    #[inline(always)]
    fn widen_bytes(self, from: &[u8; 8]) -> __m256 {
        let bytes: [u64; 2] = [u64::from_le_bytes(*from), 0];
        let ints = self.avx2._mm256_cvtepi8_epi32(cast(bytes));
        self.avx._mm256_cvtepi32_ps(ints)
    }

    #[inline(always)]
    fn sums(self, of: [__m256; 8]) -> __m256 {
        let pairs = |a: usize| self.avx._mm256_hadd_ps(of[a], of[a + 1]);
        let fours = |a: usize| self.avx._mm256_hadd_ps(pairs(a), pairs(a + 2));
        // Lanes 0..4 of each are sums of the low halves of four vectors, lanes 4..8 those of the high halves.
        let (first, second) = (fours(0), fours(4));
        let low = self.avx._mm256_permute2f128_ps::<0x20>(first, second);
        let high = self.avx._mm256_permute2f128_ps::<0x31>(first, second);
        self.avx._mm256_add_ps(low, high)
    }

    #[inline(always)]
    fn swap<const DISTANCE: usize>(self, x: __m256) -> __m256 {
        match DISTANCE {
            1 => self.avx._mm256_permute_ps::<0b10_11_00_01>(x),
            2 => self.avx._mm256_permute_ps::<0b01_00_11_10>(x),
            4 => self.avx._mm256_permute2f128_ps::<1>(x, x),
            _ => unreachable!("lanes at a distance of 1, 2 or 4"),
        }
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        self.avx
            ._mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }

    #[inline(always)]
    fn clamp(self, x: __m256, low: f32, high: f32) -> __m256 {
        let x = self.avx._mm256_max_ps(x, self.splat(low));
        self.avx._mm256_min_ps(x, self.splat(high))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_add_ps(a, b)
    }

    #[inline(always)]
    fn multiply(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_mul_ps(a, b)
    }

    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.fma._mm256_fmadd_ps(a, b, c)
    }
}
