//! Arbitrary inputs, the same in every run.

/// A linear congruential generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Numbers in -1..1.
    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        let one = |_| self.bits() as f32 / (1u64 << 30) as f32 - 1.0;
        (0..count).map(one).collect()
    }

    /// The numbers below `count` in some order.
    pub(crate) fn shuffled(&mut self, count: usize) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count as u32).collect();
        for last in (1..count).rev() {
            numbers.swap(last, self.bits() as usize % (last + 1));
        }
        numbers
    }
}
