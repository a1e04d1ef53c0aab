//! Products of activations and weights.

use super::{Address, Compute};

/// `out = x wᵀ`, with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Of `x` and `weight`.
    pub compute: Compute,
    /// T.
    pub rows: usize,
    /// Width of a row of `x`.
    pub inputs: usize,
    /// Width of a row of `out`.
    pub outputs: usize,
    /// `[T, inputs]`.
    pub x: Address,
    /// `[outputs, inputs]`.
    pub weight: Address,
    /// `[T, outputs]`.
    pub out: Address,
    /// Whether `out` is in f32, and not in 16 bits.
    pub is_out_wide: bool,
}
