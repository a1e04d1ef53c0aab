//! Layer budgets: each finished layer's share of what the request may keep, now and at the end.

use crate::Profile;
use crate::entropy::{ONE_Q20, entropy_q20};

/// The cut of one finished layer. The unit is entries of the layer for [`Profile::Exact`] and
/// entries per KV head for the other profiles; both numbers may exceed what the layer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// What the layer may keep among the layers finished so far. It never grows.
    pub budget: usize,
    /// What the layer keeps in the end, whatever the entropies of later layers. It never shrinks.
    pub certain: usize,
}

/// Shares the request's entries among its finished layers, each by its entropy `e`:
/// after layer `m`, layer `l` gets `total · e_l / E_m` with `E_m = SUM_{j<=m} e_j`.
///
/// Later entropies are at most 1, so `E` ends at most at `E_m + (L - 1 - m)`, and
/// `total · e_l / (E_m + (L - 1 - m))` entries are certain.
/// These are `plan` and `lower_bound` of `tests/data/reference.py`.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    /// Layers that are not finished.
    layers_left: usize,
    sum: Sum,
}

#[derive(Debug, Clone)]
enum Sum {
    /// `total` is `L · Hkv · (b - W)` entries; 128 bits, for the products.
    Integer { total: u128, entropies_q20: u128 },
    /// `total` is `L · (b - W)` entries per KV head.
    Float { total: f64, entropies: f64 },
}

impl Budgets {
    /// `contested` is `b - W`, the entries per KV head and layer that entries outside the window
    /// compete for.
    pub(crate) fn new(
        profile: Profile,
        layers: usize,
        kv_heads: usize,
        contested: usize,
    ) -> Budgets {
        let total = layers as u128 * contested as u128;
        let sum = match profile {
            Profile::Exact => Sum::Integer {
                total: total * kv_heads as u128,
                entropies_q20: 0,
            },
            Profile::Paper | Profile::Code => Sum::Float {
                total: total as f64,
                entropies: 0.0,
            },
        };
        Budgets {
            layers_left: layers,
            sum,
        }
    }

    /// Counts one more finished layer.
    ///
    /// # Panics
    /// If all layers are finished.
    pub(crate) fn add_layer(&mut self, entropy: f64) {
        assert!(self.layers_left > 0, "all layers are finished");
        self.layers_left -= 1;
        match &mut self.sum {
            Sum::Integer { entropies_q20, .. } => {
                *entropies_q20 += u128::from(entropy_q20(entropy))
            }
            Sum::Float { entropies, .. } => *entropies += share(entropy),
        }
    }

    /// The cut of a finished layer of this entropy.
    pub(crate) fn cut(&self, entropy: f64) -> Cut {
        match self.sum {
            Sum::Integer {
                total,
                entropies_q20,
            } => {
                let share = total * u128::from(entropy_q20(entropy));
                let later_max = self.layers_left as u128 * u128::from(ONE_Q20);
                Cut {
                    budget: (share / entropies_q20) as usize,
                    certain: (share / (entropies_q20 + later_max)) as usize,
                }
            }
            Sum::Float { total, entropies } => {
                let e = share(entropy);
                let later_max = self.layers_left as f64;
                Cut {
                    budget: (e / entropies * total) as usize,
                    certain: (e / (entropies + later_max) * total) as usize,
                }
            }
        }
    }
}

/// The entropy as an `f64` share: at least one Q20 step, where the reference script would divide
/// zero by zero.
fn share(entropy: f64) -> f64 {
    entropy.max(f64::from(ONE_Q20).recip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layer_gets_everything_and_half_of_it_is_certain_at_entropy_one_of_two_layers() {
        for (profile, budget) in [
            (Profile::Exact, 60),
            (Profile::Paper, 20),
            (Profile::Code, 20),
        ] {
            let mut budgets = Budgets::new(profile, 2, 3, 10);
            budgets.add_layer(1.0);
            assert_eq!(
                budgets.cut(1.0),
                Cut {
                    budget,
                    certain: budget / 2
                }
            );
            budgets.add_layer(1.0);
            assert_eq!(
                budgets.cut(1.0),
                Cut {
                    budget: budget / 2,
                    certain: budget / 2
                }
            );
        }
    }

    #[test]
    fn layers_of_entropy_zero_share_evenly() {
        for profile in [Profile::Exact, Profile::Paper, Profile::Code] {
            let mut budgets = Budgets::new(profile, 4, 1, 8);
            (0..4).for_each(|_| budgets.add_layer(0.0));
            assert_eq!(
                budgets.cut(0.0),
                Cut {
                    budget: 8,
                    certain: 8
                }
            );
        }
    }

    #[test]
    fn an_entropy_below_one_step_weighs_one_step() {
        for (profile, total) in [
            (Profile::Exact, 24),
            (Profile::Paper, 8),
            (Profile::Code, 8),
        ] {
            let mut budgets = Budgets::new(profile, 2, 3, 4);
            budgets.add_layer(0.0);
            budgets.add_layer(1.0 / f64::from(ONE_Q20));
            assert_eq!(budgets.cut(0.0).budget, total / 2);
        }
    }

    #[test]
    fn the_largest_request_does_not_overflow() {
        let (layers, contested) = (1 << 16, (1 << 32) - 2);
        let mut budgets = Budgets::new(Profile::Exact, layers, 1, contested);
        budgets.add_layer(1.0);
        assert_eq!(
            budgets.cut(1.0),
            Cut {
                budget: layers * contested,
                certain: contested
            }
        );
    }
}
