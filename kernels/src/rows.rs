//! Rows of a page as they are stored: one K row and one V row per entry, in 16 or 32 bits.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A borrowed run of stored elements.
#[derive(Clone, Copy, Debug)]
pub enum PageRows<'a> {
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16: the range of f32, 8 bits of mantissa.
    Bf16(&'a [bf16]),
    /// Single precision.
    F32(&'a [f32]),
}

impl<'a> PageRows<'a> {
    /// Elements from `start`, `len` of them.
    pub fn slice(self, start: usize, len: usize) -> Self {
        match self {
            Self::F16(x) => Self::F16(&x[start..start + len]),
            Self::Bf16(x) => Self::Bf16(&x[start..start + len]),
            Self::F32(x) => Self::F32(&x[start..start + len]),
        }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::F32(x) => x.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements as f32: borrowed when they already are, else converted into `scratch`.
    pub fn widen<'b>(self, scratch: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        scratch.resize(self.len(), 0.0);
        match self {
            Self::F16(x) => x.convert_to_f32_slice(scratch),
            Self::Bf16(x) => x.convert_to_f32_slice(scratch),
            Self::F32(x) => return x,
        }
        scratch
    }
}
