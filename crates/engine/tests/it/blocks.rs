//! Quantised weights read as candle reads them.

use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use lava_kernels::{BlockFormat, Matrix};

#[test]
fn every_block_format_reads_as_in_candle() {
    let mut state = 7u64;
    for (ours, theirs) in [
        (BlockFormat::Q4_0, GgmlDType::Q4_0),
        (BlockFormat::Q4_1, GgmlDType::Q4_1),
        (BlockFormat::Q5_0, GgmlDType::Q5_0),
        (BlockFormat::Q5_1, GgmlDType::Q5_1),
        (BlockFormat::Q8_0, GgmlDType::Q8_0),
        (BlockFormat::Q2K, GgmlDType::Q2K),
        (BlockFormat::Q3K, GgmlDType::Q3K),
        (BlockFormat::Q4K, GgmlDType::Q4K),
        (BlockFormat::Q5K, GgmlDType::Q5K),
        (BlockFormat::Q6K, GgmlDType::Q6K),
    ] {
        let (rows, cols) = (11, 512);
        let count = rows * cols / ours.weights() * ours.bytes();
        let bytes: Vec<u8> = (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Without the top bit: then no half is infinite or no number.
                (state >> 40) as u8 & 0x7b
            })
            .collect();
        let storage = QStorage::from_data(Cow::Borrowed(&bytes), &Device::Cpu, theirs).unwrap();
        let expected = QTensor::new(storage, (rows, cols)).unwrap();
        let expected = expected.dequantize(&Device::Cpu).unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found = Matrix::quantised(ours, &bytes, rows, cols).widen();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // A scale and a min may be rounded before or after they meet.
            let error = (found - expected).abs();
            assert!(
                error <= 1e-6 * expected.abs().max(1e-3),
                "{ours:?} {index}: {found} != {expected}"
            );
        }
    }
}
