//! Matrix products with weights that are dense or quantised.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};

/// Rows of an input from which a quantised matrix is widened to f32 and multiplied as such. candle's
/// quantised product walks the whole matrix once per row; below this many rows that is cheaper than
/// widening.
const WIDEN_ROWS_MIN: usize = 16;

/// A weight matrix `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) enum Matrix {
    /// f32.
    Dense(Tensor),
    /// ggml blocks.
    Quantized(Arc<QTensor>),
}

impl Matrix {
    pub(crate) fn dense(values: Vec<f32>, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self::Dense(Tensor::from_vec(
            values,
            (rows, cols),
            &Device::Cpu,
        )?))
    }

    pub(crate) fn into_dense(self) -> Result<Self> {
        self.widen().map(Self::Dense)
    }

    /// f32 values that f16 can hold.
    pub(crate) fn into_f16_rounded(self) -> Result<Self> {
        let rounded = self.widen()?.to_dtype(DType::F16)?;
        Ok(Self::Dense(rounded.to_dtype(DType::F32)?))
    }

    /// Rows `ids` of the matrix, `[ids, in]` f32: an embedding lookup.
    pub(crate) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        match self {
            Self::Dense(weight) => weight.index_select(&ids, 0),
            Self::Quantized(weight) => weight.embedding(&ids),
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Quantized(weight) => weight.storage_size_in_bytes(),
        }
    }

    /// f32, `[out, in]`.
    pub(crate) fn widen(&self) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Quantized(weight) => weight.dequantize(&Device::Cpu),
        }
    }

    /// `x wᵀ`: `[rows, in]` to `[rows, out]`, f32.
    pub(crate) fn product(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _in) = x.dims2()?;
        match self {
            Self::Quantized(weight) if rows < WIDEN_ROWS_MIN => {
                QMatMul::from_arc(Arc::clone(weight))?.forward(x)
            }
            _ => x.matmul(&self.widen()?.t()?),
        }
    }
}

/// `y = x wᵀ + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn matrix(&self) -> &Matrix {
        &self.weight
    }

    pub(crate) fn new(weight: Matrix, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `[rows, in]` to `[rows, out]`, f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.product(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes()
    }
}
