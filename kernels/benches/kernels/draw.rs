//! Arbitrary inputs, the same in every run.

use half::f16;
use lava_kernels::{BlockFormat, Matrix};

/// A linear congruential generator.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as u32
    }

    /// Numbers in -1..1.
    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        let one = |_| self.bits() as f32 / (1 << 30) as f32 - 1.0;
        (0..len).map(one).collect()
    }

    /// Of f32 if there is no format.
    pub(crate) fn matrix(
        &mut self,
        format: Option<BlockFormat>,
        rows: usize,
        cols: usize,
    ) -> Matrix {
        let Some(format) = format else {
            return Matrix::dense(&self.values(rows * cols), rows, cols);
        };
        let mut bytes: Vec<u8> = (0..rows * cols / format.weights() * format.bytes())
            .map(|_| self.bits() as u8)
            .collect();
        // Scales in half precision are made small and finite; any codes will do.
        for block in bytes.chunks_exact_mut(format.bytes()) {
            for &at in scales(format) {
                block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
            }
        }
        Matrix::quantised(format, &bytes, rows, cols)
    }
}

/// Where scales in half precision lie in a block.
fn scales(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    }
}
