//! Projections of activations.

use candle_core::{Device, Result, Tensor};
use lava_kernels::{Matrix, products};

use crate::ops;

/// `y = x wᵀ + b`, with `w` `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    /// `[out]`.
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn new(weight: Matrix, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias }
    }

    pub(crate) fn matrix(&self) -> &Matrix {
        &self.weight
    }

    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// `[rows, in]` to `[rows, out]`, f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = Self::forward_each([self], x)?;
        Ok(y)
    }

    /// What several projections make of one input.
    pub(crate) fn forward_each<const N: usize>(
        linears: [&Linear; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        let (rows, _in) = x.dims2()?;
        let matrices = linears.map(Linear::matrix);
        let outs = ops::with_values(x, |x| products(x, &matrices))?;
        let tensors: Result<Vec<Tensor>> = linears
            .iter()
            .zip(outs)
            .map(|(linear, mut out)| {
                let width = linear.weight.rows();
                if let Some(bias) = &linear.bias {
                    for row in out.chunks_exact_mut(width) {
                        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                    }
                }
                Tensor::from_vec(out, (rows, width), &Device::Cpu)
            })
            .collect();
        Ok(tensors?.try_into().expect("one output for each projection"))
    }
}
