//! The quantised blocks of GGUF files, read into one plain form.
//!
//! Every format says `w = scale * code + min` for runs of 16 or 32 weights; they differ in the width of the
//! codes and in how scales and mins are stored. The layouts are those of the ggml library.

use half::f16;

/// A quantised format of GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a min for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a min for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, scales and mins for 16 in units for 256.
    Q2K,
    /// 3 bits, scales for 16 in units for 256.
    Q3K,
    /// 4 bits, scales and mins for 32 in units for 256.
    Q4K,
    /// 5 bits, scales and mins for 32 in units for 256.
    Q5K,
    /// 6 bits, scales for 16 in units for 256.
    Q6K,
}

impl BlockFormat {
    /// All of them.
    pub const ALL: [BlockFormat; 10] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
    ];

    /// Weights of a block.
    pub const fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block in a file.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// One block in plain form; a block of 32 uses the front of each array.
pub(super) struct Block {
    /// Unsigned, or signed bytes for [`BlockFormat::Q8_0`].
    pub(super) codes: [u8; 256],
    /// Scale, or the unit of the scales of the K formats.
    pub(super) unit: f16,
    /// What is added, or the unit of what is subtracted in the K formats; 0 where codes have a fixed offset.
    pub(super) min_unit: f16,
    /// K formats: scales in units.
    pub(super) scales: [i8; 16],
    /// K formats: mins in units.
    pub(super) mins: [i8; 16],
}

impl Block {
    /// Reads the bytes of one block.
    pub(super) fn read(format: BlockFormat, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), format.bytes(), "bytes of a {format:?} block");
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut block = Self {
            codes: [0; 256],
            unit: f16::ZERO,
            min_unit: f16::ZERO,
            scales: [0; 16],
            mins: [0; 16],
        };
        match format {
            BlockFormat::Q4_0 => {
                block.unit = half(0);
                nibbles(&bytes[2..18], &mut block.codes);
            }
            BlockFormat::Q4_1 => {
                (block.unit, block.min_unit) = (half(0), half(2));
                nibbles(&bytes[4..20], &mut block.codes);
            }
            BlockFormat::Q5_0 => {
                block.unit = half(0);
                nibbles(&bytes[6..22], &mut block.codes);
                fifth_bits(&bytes[2..6], &mut block.codes);
            }
            BlockFormat::Q5_1 => {
                (block.unit, block.min_unit) = (half(0), half(2));
                nibbles(&bytes[8..24], &mut block.codes);
                fifth_bits(&bytes[4..8], &mut block.codes);
            }
            BlockFormat::Q8_0 => {
                block.unit = half(0);
                block.codes[..32].copy_from_slice(&bytes[2..34]);
            }
            BlockFormat::Q2K => {
                (block.unit, block.min_unit) = (half(80), half(82));
                for (i, &both) in bytes[..16].iter().enumerate() {
                    (block.scales[i], block.mins[i]) = ((both & 15) as i8, (both >> 4) as i8);
                }
                for (i, code) in block.codes.iter_mut().enumerate() {
                    *code = two_bits(&bytes[16..80], i);
                }
            }
            BlockFormat::Q3K => {
                block.unit = half(108);
                block.scales = three_bit_scales(&bytes[96..108]);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    let high = bytes[i % 32] >> (i / 32) & 1;
                    *code = two_bits(&bytes[32..96], i) | high << 2;
                }
            }
            BlockFormat::Q4K => {
                (block.unit, block.min_unit) = (half(0), half(2));
                block.six_bit_scales(&bytes[4..16]);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    *code = bytes[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
                }
            }
            BlockFormat::Q5K => {
                (block.unit, block.min_unit) = (half(0), half(2));
                block.six_bit_scales(&bytes[4..16]);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    let low = bytes[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
                    let high = bytes[16 + i % 32] >> (i / 32) & 1;
                    *code = low | high << 4;
                }
            }
            BlockFormat::Q6K => {
                block.unit = half(208);
                for (scale, &byte) in block.scales.iter_mut().zip(&bytes[192..208]) {
                    *scale = byte as i8;
                }
                for (i, code) in block.codes.iter_mut().enumerate() {
                    // Each half of 128 has 64 bytes of low and 32 of high bits.
                    let (part, j) = (i / 128, i % 128);
                    let low = bytes[part * 64 + j % 64] >> (j / 64 * 4) & 15;
                    let high = bytes[128 + part * 32 + j % 32] >> (j / 32 * 2) & 3;
                    *code = low | high << 4;
                }
            }
        }
        block
    }

    /// Eight scales and eight mins of six bits in twelve bytes.
    fn six_bit_scales(&mut self, bytes: &[u8]) {
        for i in 0..8 {
            let (scale, min) = match i {
                0..4 => (bytes[i] & 63, bytes[i + 4] & 63),
                _ => (
                    bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4,
                    bytes[i + 4] >> 4 | bytes[i] >> 6 << 4,
                ),
            };
            (self.scales[i], self.mins[i]) = (scale as i8, min as i8);
        }
    }
}

/// Sixteen bytes are codes 0..16 in their low halves and codes 16..32 in their high ones.
fn nibbles(bytes: &[u8], codes: &mut [u8; 256]) {
    for (i, byte) in bytes.iter().enumerate() {
        (codes[i], codes[i + 16]) = (byte & 15, byte >> 4);
    }
}

/// Four bytes are the fifth bits of 32 codes.
fn fifth_bits(bytes: &[u8], codes: &mut [u8; 256]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Code `i` of 256 in 64 bytes: 32 bytes hold four runs of 32.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Sixteen scales of six bits in twelve bytes, less 32.
fn three_bit_scales(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = bytes[i % 8] >> (i / 8 * 4) & 15;
        let high = bytes[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Values as blocks of [`BlockFormat::Q8_0`]: multiples of a 127th of a block's largest.
pub(super) fn q8_0_blocks(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * BlockFormat::Q8_0.bytes());
    for block in values.chunks_exact(32) {
        let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        // NaN if a value is not finite, so that it is noticed.
        let poison: f32 = block.iter().map(|x| x * 0.0).sum();
        let unit = f16::from_f32(largest / 127.0 + poison);
        bytes.extend(unit.to_le_bytes());
        let per_one = match unit.to_f32() {
            0.0 => 0.0,
            unit => 1.0 / unit,
        };
        let codes = block
            .iter()
            .map(|x| (x * per_one).round_ties_even().clamp(-127.0, 127.0));
        bytes.extend(codes.map(|code| code as i8 as u8));
    }
    bytes
}
