//! Budgets as shares of the weights of the finished layers.

use super::Cut;
use crate::entropy::{ONE_Q20, in_q20, layer_weight};
use crate::recipe::Unit;
use crate::{Config, LayerWeight, Shape};

/// Shares the request's entries among its finished layers, each by its weight `e` in `(0, 1]`: with
/// `E_m = SUM_{j<=m} e_j`, layer `l` gets after layer `m`
///
/// ```text
/// budget_l(m) = even + floor(rest · e_l / E_m)
/// ```
///
/// `even` is the layer floor, the same for all layers, and `rest` is what all those floors leave of
/// the request's entries; without a layer floor, `rest` is all of it. These are `plan` and
/// `lower_bound` of `tests/data/reference.py`, which has no layer floor. Meanwhile
///
/// ```text
/// certain_l(m) = even + floor(rest · e_l / (E_m + (L - 1 - m)))
/// ```
///
/// entries are certain:
///
/// 1. `E_m` only grows, so `budget_l(m)` never grows: `even` is constant and `floor` monotone.
/// 2. Each of the `L - 1 - m` later weights is at most 1, so `E` ends at `E_m + (L - 1 - m)` at most
///    and `budget_l` ends at `certain_l(m)` at least.
/// 3. `E_{m+1} + (L - 2 - m) <= E_m + (L - 1 - m)`, by the same bound for one weight, so `certain_l`
///    never shrinks.
/// 4. After the last layer nothing is left to bound, and both are equal.
/// 5. The budgets of the finished layers sum to at most `L · even + rest`, which is all there is.
///
/// The larger the floor, the more is certain early: with all of it even, everything.
#[derive(Debug, Clone)]
pub(crate) struct SharedBudgets {
    weight: LayerWeight,
    /// Entries of a layer, `Hkv · n`.
    entries: usize,
    /// Layers that are not finished.
    layers_left: usize,
    /// The layer floor, in the unit of the budgets.
    even: usize,
    sum: Sum,
}

#[derive(Debug, Clone)]
enum Sum {
    /// `rest` in entries; 128 bits, for the products. Weights in Q20.
    Integer { rest: u128, weights_q20: u128 },
    /// `rest` in entries per KV head.
    Float { rest: f64, weights: f64 },
}

impl SharedBudgets {
    /// `contested` is `b - W`, the entries per KV head and layer that entries outside the window
    /// compete for; `entries` are `Hkv · n`.
    pub(crate) fn new(
        unit: Unit,
        config: &Config,
        shape: Shape,
        entries: usize,
        contested: usize,
    ) -> SharedBudgets {
        let of_layer = match unit {
            Unit::Layer => contested as u128 * shape.kv_heads as u128,
            Unit::Head => contested as u128,
        };
        let even = of_layer * u128::from(config.layer_floor_milli) / 1000;
        let rest = shape.layers as u128 * (of_layer - even);
        SharedBudgets {
            weight: config.layer_weight,
            entries,
            layers_left: shape.layers,
            even: even as usize,
            sum: match unit {
                Unit::Layer => Sum::Integer {
                    rest,
                    weights_q20: 0,
                },
                Unit::Head => Sum::Float {
                    rest: rest as f64,
                    weights: 0.0,
                },
            },
        }
    }

    /// Counts one more finished layer.
    ///
    /// # Panics
    /// If all layers are finished.
    pub(crate) fn add_layer(&mut self, entropy: f64) {
        assert!(self.layers_left > 0, "all layers are finished");
        self.layers_left -= 1;
        let weight = layer_weight(self.weight, entropy, self.entries);
        match &mut self.sum {
            Sum::Integer { weights_q20, .. } => *weights_q20 += u128::from(in_q20(weight)),
            Sum::Float { weights, .. } => *weights += at_least_a_step(weight),
        }
    }

    /// The cut of a finished layer of this entropy.
    pub(crate) fn cut(&self, entropy: f64) -> Cut {
        let weight = layer_weight(self.weight, entropy, self.entries);
        let cut = match self.sum {
            Sum::Integer { rest, weights_q20 } => {
                let share = rest * u128::from(in_q20(weight));
                let later_max = self.layers_left as u128 * u128::from(ONE_Q20);
                Cut {
                    budget: (share / weights_q20) as usize,
                    certain: (share / (weights_q20 + later_max)) as usize,
                }
            }
            Sum::Float { rest, weights } => {
                let weight = at_least_a_step(weight);
                let later_max = self.layers_left as f64;
                Cut {
                    budget: (weight / weights * rest) as usize,
                    certain: (weight / (weights + later_max) * rest) as usize,
                }
            }
        };
        Cut {
            budget: self.even + cut.budget,
            certain: self.even + cut.certain,
        }
    }
}

/// The weight as an `f64` share: at least one Q20 step, where the reference script would divide zero
/// by zero.
fn at_least_a_step(weight: f64) -> f64 {
    weight.max(f64::from(ONE_Q20).recip())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: [Unit; 2] = [Unit::Layer, Unit::Head];

    fn budgets(unit: Unit, layers: usize, kv_heads: usize, contested: usize) -> SharedBudgets {
        with(&Config::default(), unit, layers, kv_heads, contested)
    }

    fn with(
        config: &Config,
        unit: Unit,
        layers: usize,
        kv_heads: usize,
        contested: usize,
    ) -> SharedBudgets {
        let shape = Shape {
            layers,
            kv_heads,
            tokens: 0,
        };
        SharedBudgets::new(unit, config, shape, 1000, contested)
    }

    /// Entries of a layer in a unit, for `contested` per KV head.
    fn in_unit(unit: Unit, contested: usize, kv_heads: usize) -> usize {
        match unit {
            Unit::Layer => contested * kv_heads,
            Unit::Head => contested,
        }
    }

    #[track_caller]
    fn check(found: Cut, budget: usize, certain: usize) {
        assert_eq!(found, Cut { budget, certain });
    }

    #[test]
    fn the_first_layer_gets_everything_and_half_of_it_is_certain_at_entropy_one_of_two_layers() {
        for unit in UNITS {
            let half = in_unit(unit, 10, 3);
            let mut budgets = budgets(unit, 2, 3, 10);
            budgets.add_layer(1.0);
            check(budgets.cut(1.0), 2 * half, half);
            budgets.add_layer(1.0);
            check(budgets.cut(1.0), half, half);
        }
    }

    #[test]
    fn layers_of_entropy_zero_share_evenly() {
        for unit in UNITS {
            let mut budgets = budgets(unit, 4, 1, 8);
            (0..4).for_each(|_| budgets.add_layer(0.0));
            check(budgets.cut(0.0), 8, 8);
        }
    }

    #[test]
    fn an_entropy_below_one_step_weighs_one_step() {
        for unit in UNITS {
            let mut budgets = budgets(unit, 2, 3, 4);
            budgets.add_layer(0.0);
            budgets.add_layer(1.0 / f64::from(ONE_Q20));
            assert_eq!(budgets.cut(0.0).budget, in_unit(unit, 4, 3));
        }
    }

    #[test]
    fn a_layer_floor_is_certain_whatever_the_weights_are() {
        let config = Config {
            layer_floor_milli: 250,
            ..Config::default()
        };
        for unit in UNITS {
            let of_layer = in_unit(unit, 40, 3);
            let mut budgets = with(&config, unit, 2, 3, 40);
            budgets.add_layer(0.0);
            check(
                budgets.cut(0.0),
                of_layer / 4 + 2 * of_layer * 3 / 4,
                of_layer / 4,
            );
            budgets.add_layer(1.0);
            check(budgets.cut(0.0), of_layer / 4, of_layer / 4);
        }
    }

    #[test]
    fn uniform_weights_are_certain_at_once() {
        let config = Config {
            layer_weight: LayerWeight::Uniform,
            ..Config::default()
        };
        for unit in UNITS {
            let of_layer = in_unit(unit, 40, 3);
            let mut budgets = with(&config, unit, 4, 3, 40);
            budgets.add_layer(0.1);
            check(budgets.cut(0.1), 4 * of_layer, of_layer);
        }
    }

    #[test]
    fn the_largest_request_does_not_overflow() {
        let (layers, contested) = (1 << 16, (1 << 32) - 2);
        for layer_floor_milli in [0, 1000] {
            let config = Config {
                layer_floor_milli,
                ..Config::default()
            };
            let mut budgets = with(&config, Unit::Layer, layers, 1, contested);
            budgets.add_layer(1.0);
            let first = if layer_floor_milli == 0 { layers } else { 1 };
            check(budgets.cut(1.0), first * contested, contested);
        }
    }
}
