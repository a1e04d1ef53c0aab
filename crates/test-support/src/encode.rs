//! Numbers as the bytes of a checkpoint, little-endian.

use half::{bf16, f16};

/// Values that share one scale in Q8_0.
pub(crate) const Q8_0_BLOCK: usize = 32;

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&x| f16::from_f32(x).to_le_bytes())
        .collect()
}

pub(crate) fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
        .collect()
}

/// Per block of 32: the scale max|x| / 127 in f16, then 32 signed bytes. 34 bytes a block.
///
/// # Panics
/// If the values are not whole blocks: the caller checks the inner dimension first.
pub(crate) fn q8_0_bytes(values: &[f32]) -> Vec<u8> {
    assert!(
        values.len().is_multiple_of(Q8_0_BLOCK),
        "Q8_0 needs whole blocks, found {} values",
        values.len()
    );
    let mut bytes = Vec::with_capacity(values.len() / Q8_0_BLOCK * (Q8_0_BLOCK + 2));
    for block in values.chunks_exact(Q8_0_BLOCK) {
        let scale = block.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
        bytes.extend(f16::from_f32(scale).to_le_bytes());
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        bytes.extend(block.iter().map(|x| ((x * inverse).round() as i8) as u8));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_q8_0_block_is_off_by_half_a_step_at_most() {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) * 0.037).collect();
        let bytes = q8_0_bytes(&values);
        assert_eq!(bytes.len(), 2 * 34);
        for (block, bytes) in values.chunks(32).zip(bytes.chunks(34)) {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            for (x, &byte) in block.iter().zip(&bytes[2..]) {
                // Half a step, and the f16 scale's 11 bits over up to 127 steps.
                let tolerance = scale * (0.5 + 127.0 / 2048.0);
                assert!((f32::from(byte as i8) * scale - x).abs() <= tolerance);
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        assert_eq!(q8_0_bytes(&[0.0; 32]), [0; 34]);
    }
}
