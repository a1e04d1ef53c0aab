//! The selection rule inside a layer: from a budget to how many entries each head keeps.

use crate::ranking::{Entries, mixed_heads};
use crate::recipe::{Floor, HeadRule, Recipe, Unit};
use crate::{Config, RankedLayer, RankingWanted, Shape};

/// Where the rankings of a layer come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ranking<'a> {
    /// `[Hkv, n]`.
    Scores(&'a [f32]),
    /// As far as [`Rule::wanted`] says.
    Ranked(&'a RankedLayer),
}

/// How one request turns a layer's budget into head lengths. Every rule keeps a prefix of each head's
/// own ranking, and longer budgets give longer prefixes.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    heads: HeadRule,
    unit: Unit,
    kv_heads: usize,
    /// `n`: rows outside the window per KV head.
    n: usize,
    sinks: usize,
    alpha_milli: u32,
    /// [`request_floor`].
    request_floor: usize,
}

impl Rule {
    pub(crate) fn new(
        recipe: Recipe,
        config: &Config,
        shape: Shape,
        n: usize,
        budget: usize,
    ) -> Rule {
        Rule {
            heads: recipe.heads,
            unit: recipe.unit,
            kv_heads: shape.kv_heads,
            n,
            sinks: config.sinks,
            alpha_milli: config.alpha_milli,
            request_floor: request_floor(config, budget),
        }
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// What has to be ranked of a layer whose budget is at most this one; nothing if only scores will do.
    pub(crate) fn wanted(&self, budget: usize) -> Option<RankingWanted> {
        let alpha_milli = match self.heads {
            HeadRule::Mixed => self.alpha_milli,
            HeadRule::Best => 0,
            HeadRule::Raised(_) | HeadRule::Even => return None,
        };
        Some(RankingWanted {
            best: self.order_len(budget) + self.kv_heads,
            alpha_milli,
            sinks: self.sinks,
        })
    }

    fn entries<'a>(&self, scores: &'a [f32]) -> Entries<'a> {
        Entries {
            scores,
            kv_heads: self.kv_heads,
            sinks: self.sinks,
        }
    }

    /// How many entries of the layer's order a budget reaches. Where heads do not compete, the layer
    /// has no order, and this is zero.
    pub(crate) fn order_len(&self, budget: usize) -> usize {
        let entries = match (self.heads, self.unit) {
            (HeadRule::Even, _) => 0,
            (_, Unit::Layer) => budget,
            (_, Unit::Head) => budget.saturating_mul(self.kv_heads),
        };
        entries.min(self.kv_heads * self.n)
    }

    /// The KV heads of the first `len` entries of the layer's order.
    pub(crate) fn order_heads(&self, ranking: Ranking<'_>, len: usize) -> Vec<u16> {
        let walked = match self.heads {
            HeadRule::Mixed => len.saturating_add(self.kv_heads),
            HeadRule::Best | HeadRule::Raised(_) => len,
            HeadRule::Even => return Vec::new(),
        };
        let of_scores;
        let walk = match ranking {
            Ranking::Scores(scores) => {
                of_scores = self.entries(scores).best_heads(walked);
                &of_scores
            }
            Ranking::Ranked(layer) => {
                let all = self.kv_heads * self.n;
                assert!(
                    layer.heads.len() >= walked.min(all),
                    "{} entries were ranked, {walked} of {all} are needed",
                    layer.heads.len()
                );
                &layer.heads
            }
        };
        match self.heads {
            HeadRule::Mixed => mixed_heads(walk, self.kv_heads, self.alpha_milli, len),
            _ => walk[..len].to_vec(),
        }
    }

    /// For each head its `lens[h]` best positions, best first. `lens` `[Hkv]`.
    pub(crate) fn best_positions(&self, ranking: Ranking<'_>, lens: &[usize]) -> Vec<Vec<u32>> {
        match ranking {
            Ranking::Scores(scores) => self.entries(scores).best_positions(lens),
            Ranking::Ranked(layer) => {
                let heads = layer.positions.iter().zip(lens);
                heads.map(|(best, &len)| best[..len].to_vec()).collect()
            }
        }
    }

    /// Entries that a head keeps, `count` of which are within the layer's order as far as `budget`
    /// reaches.
    pub(crate) fn head_len(&self, budget: usize, count: usize) -> usize {
        match self.heads {
            HeadRule::Mixed | HeadRule::Best => count,
            HeadRule::Even => match self.unit {
                Unit::Layer => (budget / self.kv_heads).min(self.n),
                Unit::Head => budget.min(self.n),
            },
            HeadRule::Raised(_) if budget > self.n => self.n,
            HeadRule::Raised(floor) => {
                let floor = match floor {
                    Floor::OfRequest => self.request_floor,
                    Floor::OfLayer => alpha_share(self.alpha_milli, budget),
                };
                let own = count as f64 * (1.0 - alpha(self.alpha_milli));
                ((own + floor as f64).round_ties_even() as usize).min(self.n)
            }
        }
    }
}

/// The head floor of the authors' code: a share of the whole `budget`, window included, the same
/// for all layers.
pub(crate) fn request_floor(config: &Config, budget: usize) -> usize {
    alpha_share(config.alpha_milli, budget)
}

/// `alpha` of some entries, truncated.
pub(crate) fn alpha_share(alpha_milli: u32, entries: usize) -> usize {
    (entries as f64 * alpha(alpha_milli)) as usize
}

fn alpha(alpha_milli: u32) -> f64 {
    f64::from(alpha_milli) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, Profile};

    fn rule(policy: Policy, budget: usize) -> Rule {
        let shape = Shape {
            layers: 1,
            kv_heads: 2,
            tokens: 132,
        };
        let recipe = policy.recipe().unwrap();
        Rule::new(recipe, &Config::default(), shape, 100, budget)
    }

    #[test]
    fn the_released_code_keeps_a_head_whole_only_if_the_budget_exceeds_it() {
        let rule = rule(Policy::Lava(Profile::Code), 40);
        assert_eq!(rule.head_len(101, 100), 100);
        assert_eq!(rule.head_len(100, 100), 88); // 0.8 · 100 + int(0.2 · 40)
        assert_eq!(rule.head_len(0, 0), 8);
    }

    #[test]
    fn the_ada_floor_follows_the_layers_budget() {
        let rule = rule(Policy::AdaSnapKv, 40);
        assert_eq!(rule.head_len(101, 7), 100);
        assert_eq!(rule.head_len(50, 100), 90); // 0.8 · 100 + int(0.2 · 50)
        assert_eq!(rule.head_len(50, 0), 10);
    }

    #[test]
    fn heads_that_do_not_compete_share_evenly_and_have_no_order() {
        let heads = rule(Policy::LavaHeads, 40);
        assert_eq!((heads.head_len(13, 0), heads.order_len(13)), (6, 0));
        let snap = rule(Policy::SnapKv, 40);
        assert_eq!((snap.head_len(13, 0), snap.head_len(101, 0)), (13, 100));
    }
}
