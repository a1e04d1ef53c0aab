//! What can go wrong, and whose fault it is.

use crate::{AlwaysKept, Budget};

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
    /// The configuration has a pool whose cost nobody would pay for a score.
    #[error("the pool's kernel is {kernel} tokens, expected at most {max}")]
    WideKernel {
        /// Found, in tokens.
        kernel: usize,
        /// The most, in tokens.
        max: usize,
    },
    /// The configuration gives the neighbours of a peak more than the peak.
    #[error("the shoulder is {shoulder_milli} thousandths, expected at most 1000")]
    ShoulderAboveOne {
        /// Found, in thousandths.
        shoulder_milli: u32,
    },
    /// The configuration spreads more than the whole budget evenly over the heads.
    #[error("alpha is {alpha_milli} thousandths, expected at most 1000")]
    AlphaAboveOne {
        /// Found, in thousandths.
        alpha_milli: u32,
    },
    /// The configuration spreads more than the whole budget evenly over the layers.
    #[error("the layer floor is {layer_floor_milli} thousandths, expected at most 1000")]
    LayerFloorAboveOne {
        /// Found, in thousandths.
        layer_floor_milli: u32,
    },
    /// The configuration divides the pyramid's last budget by zero.
    #[error("beta is 0, expected at least 1")]
    ZeroBeta,
    /// The configuration raises CAKE's preferences to a power that leaves the range of `f64`.
    #[error("tau is {tau_milli} thousandths, expected at least {min_milli}")]
    SmallTau {
        /// Found, in thousandths.
        tau_milli: u32,
        /// In thousandths.
        min_milli: u32,
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
    /// The request asks for a budget that the sinks alone use up.
    #[error(
        "the budget is {budget} entries per KV head and layer, expected more than the {sinks} sinks"
    )]
    BudgetWithinSinks {
        /// Found, in entries per KV head and layer.
        budget: usize,
        /// Entries per KV head and layer.
        sinks: usize,
    },
    /// The request asks for a share of the prompt, or for bytes, that what is always kept uses up.
    #[error(
        "a budget of {asked} comes to {entries} entries per KV head and layer, {kept}; the least that works is {least} ({least_entries} entries)"
    )]
    BudgetTooSmall {
        /// Found.
        asked: Budget,
        /// Entries per KV head and layer that it comes to.
        entries: usize,
        /// What uses them up.
        kept: AlwaysKept,
        /// The least that works for this request, in the unit that was asked in.
        least: Budget,
        /// Entries per KV head and layer that this comes to.
        least_entries: usize,
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
    /// The engine produced a preference that is not a finite number of at least zero.
    #[error(
        "the preference of layer {layer} is {preference}, expected a finite number of at least zero"
    )]
    BadPreference {
        /// Index of the layer.
        layer: usize,
        /// Found.
        preference: f64,
    },
    /// The engine ranked a layer whose entropy is no number from 0 to 1.
    #[error("the entropy of layer {layer} is {entropy}, expected a number from 0 to 1")]
    BadEntropy {
        /// Index of the layer.
        layer: usize,
        /// Found.
        entropy: f64,
    },
}
