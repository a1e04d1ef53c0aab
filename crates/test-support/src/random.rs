//! Seeded numbers that are the same on every machine: integer arithmetic and exact float operations only.

use half::bf16;

/// The smallest magnitude kept by [`representable`]: below it a bf16 value may not fit an f16 subnormal.
const MAGNITUDE_MIN: f32 = 1.0 / 131_072.0;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and one mix per number.
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of one named tensor. The name is part of the seed, so that a tensor's numbers do not depend on
    /// which other tensors the model has.
    pub(crate) fn of_tensor(seed: u64, name: &str) -> Self {
        let mut stream = Self(seed);
        for byte in name.bytes() {
            stream.0 ^= u64::from(byte);
            stream.0 = stream.next();
        }
        stream
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Nearly normal, mean 0, variance 1, within ±3.5: the sum of four uniform 16-bit numbers. No logarithm or
    /// cosine, whose last bit differs between C libraries.
    pub(crate) fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = (0..4)
            .map(|i| ((bits >> (16 * i)) & 0xffff) as f32 / 65_536.0)
            .sum();
        (sum - 2.0) * 3f32.sqrt()
    }
}

/// The nearest number that f32, f16 and bf16 all hold exactly, so that a model is the same in every dtype.
pub(crate) fn representable(x: f32) -> f32 {
    let rounded = bf16::from_f32(x).to_f32();
    if rounded.abs() < MAGNITUDE_MIN {
        0.0
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn numbers_have_mean_zero_and_variance_one() {
        let mut stream = SplitMix64::of_tensor(7, "w");
        let values: Vec<f64> = (0..40_000).map(|_| f64::from(stream.normal())).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / values.len() as f64;
        // Four standard errors of 40,000 draws: 4 / 200.
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
    }

    #[test]
    fn seed_and_name_both_choose_the_stream() {
        let first = |seed, name| SplitMix64::of_tensor(seed, name).next();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "ab"), first(1, "ba"));
    }

    #[test]
    fn a_representable_number_survives_every_dtype() {
        let mut stream = SplitMix64::of_tensor(3, "w");
        for _ in 0..20_000 {
            let value = representable(stream.normal() * 0.01);
            assert_eq!(f16::from_f32(value).to_f32(), value);
            assert_eq!(bf16::from_f32(value).to_f32(), value);
        }
    }
}
