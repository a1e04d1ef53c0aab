//! f32, f16 and bf16: elements as they are, no scale.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use lava_kv::RowFormat;

use crate::isa::Isa;

pub(super) fn store(format: RowFormat, row: &[f32], codes: &mut [u8]) {
    match format {
        RowFormat::F32 => bytemuck::cast_slice_mut(codes).copy_from_slice(row),
        RowFormat::F16 => bytemuck::cast_slice_mut::<_, f16>(codes).convert_from_f32_slice(row),
        RowFormat::Bf16 => bytemuck::cast_slice_mut::<_, bf16>(codes).convert_from_f32_slice(row),
        RowFormat::Int8 | RowFormat::Fp8 | RowFormat::Int4 => panic!("{format} rows are packed"),
    }
}

#[inline(always)]
pub(super) fn widen<I: Isa>(isa: I, format: RowFormat, codes: &[u8], out: &mut [f32]) {
    match format {
        RowFormat::F16 => {
            let ((codes, last_codes), (out, last)) = (codes.as_chunks(), out.as_chunks_mut());
            for (codes, out) in codes.iter().zip(out) {
                isa.store(isa.widen_halves(codes), out);
            }
            for (code, out) in last_codes.as_chunks::<2>().0.iter().zip(last) {
                *out = f16::from_le_bytes(*code).to_f32();
            }
        }
        RowFormat::Bf16 => {
            for (code, out) in codes.as_chunks::<2>().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*code)) << 16);
            }
        }
        _ => out.copy_from_slice(bytemuck::cast_slice(codes)),
    }
}
