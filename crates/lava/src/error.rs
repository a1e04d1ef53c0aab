//! What can go wrong, and whose fault it is.

/// The errors of this crate. None of them is transient.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The configuration has no window: the score is a mean over its queries.
    #[error("the window is 0 tokens, expected at least 1")]
    EmptyWindow,
    /// The configuration has a pool without a middle.
    #[error("the pool's kernel is {kernel} tokens, expected an odd number")]
    EvenKernel {
        /// Found, in tokens.
        kernel: usize,
    },
    /// The configuration spreads more than the whole budget evenly over the heads.
    #[error("alpha is {alpha_milli} thousandths, expected at most 1000")]
    AlphaAboveOne {
        /// Found, in thousandths.
        alpha_milli: u32,
    },
    /// The request asks for a budget that the window alone uses up.
    #[error(
        "the budget is {budget} entries per KV head and layer, expected more than the window's {window}"
    )]
    BudgetWithinWindow {
        /// Found, in entries per KV head and layer.
        budget: usize,
        /// The window's entries per KV head and layer.
        window: usize,
    },
    /// The request has more entries than can be numbered: `Hkv` in 16 bits, `Hkv · N` in 32,
    /// `L · Hkv · N` in 64.
    #[error(
        "{layers} layers of {kv_heads} KV heads and {tokens} tokens are more entries than can be numbered"
    )]
    TooManyEntries {
        /// `L`.
        layers: usize,
        /// `Hkv`.
        kv_heads: usize,
        /// `N`.
        tokens: usize,
    },
    /// The engine produced a score that is not a finite number of at least zero.
    #[error("score {index} of layer {layer} is {score}, expected a finite number of at least zero")]
    BadScore {
        /// Index of the layer.
        layer: usize,
        /// Index into the layer's `[Hkv, n]` scores; the first bad one.
        index: usize,
        /// Found.
        score: f32,
    },
}
