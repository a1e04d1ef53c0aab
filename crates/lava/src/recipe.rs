//! The table of policies: what each of them observes, scores, shares and cuts by.

use crate::{Policy, Profile};

/// One row of the table. Everything else in the crate looks at these columns and not at the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) window: WindowRule,
    pub(crate) score: ScoreRule,
    pub(crate) layers: LayerRule,
    pub(crate) unit: Unit,
    pub(crate) heads: HeadRule,
}

/// The last positions, which are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowRule {
    /// `W` of the configuration.
    Configured,
    /// The last position only.
    Last,
    /// All of the budget but the sinks.
    BudgetWithoutSinks,
}

/// From what was observed to `[Hkv, n]` scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScoreRule {
    /// [`Score`](crate::Score) of the configuration.
    Configured,
    /// Window mean, mean of the group, then pool.
    Snap,
    /// Window mean and variance, pool, then mean of the group.
    Cake,
    /// Attention of all queries, mean of the group.
    AllQueries,
    /// Attention of the last query, mean of all heads.
    LastQuery,
    /// Nothing is observed: all scores are equal, so the first positions come first.
    Position,
    /// Nothing is observed: scores are drawn.
    Random,
}

/// The budgets of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerRule {
    /// Shares by the [`LayerWeight`](crate::LayerWeight) of each finished layer.
    Weights,
    /// The same for every layer.
    Uniform,
    /// Falling from layer to layer.
    Pyramid,
    /// Shares by CAKE's preferences, after the last layer.
    Preferences,
}

/// What a layer budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Entries of the layer, in integers.
    Layer,
    /// Entries per KV head; shares are `f64` and truncated.
    Head,
}

/// From a layer's budget to the entries of each head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadRule {
    /// A prefix of the mixed order: heads compete, every prefix honours the floor `alpha`.
    Mixed,
    /// The best of the layer: heads compete, no floor.
    Best,
    /// Heads compete for the share `1 - alpha` and are then raised by a floor.
    Raised(Floor),
    /// The same number in every head.
    Even,
}

/// What `alpha` is a share of under [`HeadRule::Raised`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// The request's budget `b`, window included: the authors' code, whose misspelt name keeps the
    /// floor from following the layer's budget.
    OfRequest,
    /// The layer's budget.
    OfLayer,
}

impl Policy {
    /// The policy's row; [`Policy::Full`], which evicts nothing, has none.
    #[rustfmt::skip]
    pub(crate) fn recipe(self) -> Option<Recipe> {
        use {HeadRule as H, LayerRule as L, ScoreRule as S, WindowRule as W};
        let (window, score, layers, unit, heads) = match self {
            Policy::Full => return None,
            Policy::Lava(Profile::Exact) | Policy::LavaPeaks => (W::Configured, S::Configured, L::Weights, Unit::Layer, H::Mixed),
            Policy::Lava(Profile::Paper) => (W::Configured, S::Configured, L::Weights, Unit::Head, H::Best),
            Policy::Lava(Profile::Code) => (W::Configured, S::Configured, L::Weights, Unit::Head, H::Raised(Floor::OfRequest)),
            Policy::LavaUniform => (W::Configured, S::Configured, L::Uniform, Unit::Layer, H::Mixed),
            Policy::LavaHeads => (W::Configured, S::Configured, L::Weights, Unit::Layer, H::Even),
            Policy::SnapKv => (W::Configured, S::Snap, L::Uniform, Unit::Head, H::Even),
            Policy::PyramidKv => (W::Configured, S::Snap, L::Pyramid, Unit::Head, H::Even),
            Policy::AdaSnapKv => (W::Configured, S::Snap, L::Uniform, Unit::Head, H::Raised(Floor::OfLayer)),
            Policy::AdaPyramidKv => (W::Configured, S::Snap, L::Pyramid, Unit::Head, H::Raised(Floor::OfLayer)),
            Policy::Cake => (W::Configured, S::Cake, L::Preferences, Unit::Head, H::Even),
            Policy::StreamingLlm => (W::BudgetWithoutSinks, S::Position, L::Uniform, Unit::Head, H::Even),
            Policy::H2o => (W::Configured, S::AllQueries, L::Uniform, Unit::Head, H::Even),
            Policy::Tova => (W::Last, S::LastQuery, L::Uniform, Unit::Head, H::Even),
            Policy::Random => (W::Configured, S::Random, L::Uniform, Unit::Head, H::Even),
        };
        Some(Recipe { window, score, layers, unit, heads })
    }
}
