//! f32, f16 and bf16: elements as they are, no scale.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use lava_kv::RowFormat;

pub(super) fn store(format: RowFormat, row: &[f32], codes: &mut [u8]) {
    match format {
        RowFormat::F32 => bytemuck::cast_slice_mut(codes).copy_from_slice(row),
        RowFormat::F16 => bytemuck::cast_slice_mut::<_, f16>(codes).convert_from_f32_slice(row),
        RowFormat::Bf16 => bytemuck::cast_slice_mut::<_, bf16>(codes).convert_from_f32_slice(row),
        RowFormat::Int8 | RowFormat::Fp8 | RowFormat::Int4 => panic!("{format} rows are packed"),
    }
}

#[inline(always)]
pub(super) fn widen(format: RowFormat, codes: &[u8], out: &mut [f32]) {
    match format {
        RowFormat::F16 => bytemuck::cast_slice::<_, f16>(codes).convert_to_f32_slice(out),
        RowFormat::Bf16 => bytemuck::cast_slice::<_, bf16>(codes).convert_to_f32_slice(out),
        _ => out.copy_from_slice(bytemuck::cast_slice(codes)),
    }
}
