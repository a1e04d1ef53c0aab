//! Layer budgets: each finished layer's share of what the request may keep, now and at the end.

mod cake;

mod fixed;

mod shared;

use crate::recipe::{LayerRule, Recipe, Unit};
use crate::{Config, Shape};
use cake::CakeBudgets;
use shared::SharedBudgets;

pub(crate) use fixed::FixedBudgets;

/// The cut of one finished layer. The unit is entries of the layer for LAVa in integers
/// ([`Profile::Exact`](crate::Profile::Exact), [`Policy::LavaUniform`](crate::Policy::LavaUniform),
/// [`Policy::LavaHeads`](crate::Policy::LavaHeads)) and entries per KV head for the others; both
/// numbers may exceed what the layer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// What the layer may keep among the layers finished so far. It never grows.
    pub budget: usize,
    /// What the layer keeps in the end, whatever the later layers are. It never shrinks.
    pub certain: usize,
}

/// The budgets of one request.
#[derive(Debug, Clone)]
pub(crate) enum Budgets {
    /// Shares of the finished layers' weights.
    Shared(SharedBudgets),
    /// Known before the first layer, so certain at once: per KV head, and how many KV heads one
    /// budget counts.
    Fixed(FixedBudgets, usize),
    /// Known after the last layer.
    Cake(CakeBudgets),
}

impl Budgets {
    /// `contested` is `b - W`, the entries per KV head and layer that entries outside the window
    /// compete for; `n` the rows outside the window.
    pub(crate) fn new(
        recipe: Recipe,
        config: &Config,
        shape: Shape,
        n: usize,
        contested: usize,
    ) -> Budgets {
        let Shape {
            layers, kv_heads, ..
        } = shape;
        let heads = match recipe.unit {
            Unit::Layer => kv_heads,
            Unit::Head => 1,
        };
        match recipe.layers {
            LayerRule::Weights => Budgets::Shared(SharedBudgets::new(
                recipe.unit,
                config,
                shape,
                kv_heads * n,
                contested,
            )),
            LayerRule::Uniform => Budgets::Fixed(FixedBudgets::uniform(contested), heads),
            LayerRule::Pyramid => {
                let fixed = FixedBudgets::pyramid(layers, contested, n, config.beta);
                Budgets::Fixed(fixed, heads)
            }
            LayerRule::Preferences => Budgets::Cake(CakeBudgets::new(layers, contested, n)),
        }
    }

    /// Counts one more finished layer.
    ///
    /// # Panics
    /// If all layers are finished.
    pub(crate) fn add_layer(&mut self, entropy: f64, preference: f64) {
        match self {
            Budgets::Shared(shared) => shared.add_layer(entropy),
            Budgets::Fixed(..) => (),
            Budgets::Cake(cake) => cake.add_layer(preference),
        }
    }

    /// At least the budget that the next layer, number `layer`, gets when it is finished, whatever its entropy is: a
    /// larger weight is a larger share. None where budgets depend on more than entropies.
    pub(crate) fn next_max(&self, layer: usize) -> Option<usize> {
        if let Budgets::Cake(_) = self {
            return None;
        }
        let mut next = self.clone();
        next.add_layer(1.0, 0.0);
        // One more, for shares that are rounded in f64.
        Some(next.cut(layer, 1.0).budget.saturating_add(1))
    }

    /// The cut of a finished layer with scores of this entropy.
    pub(crate) fn cut(&self, layer: usize, entropy: f64) -> Cut {
        match self {
            Budgets::Shared(shared) => shared.cut(entropy),
            Budgets::Fixed(fixed, heads) => {
                let budget = fixed.of_layer(layer) * heads;
                Cut {
                    budget,
                    certain: budget,
                }
            }
            Budgets::Cake(cake) => cake.cut(layer),
        }
    }
}
