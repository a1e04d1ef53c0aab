//! The selection rule inside a layer: from a budget to how many entries each head keeps.

use crate::{Config, Profile, ranking};

/// How one request's profile turns a layer's budget into head lengths. Every profile keeps a prefix
/// of each head's own ranking, and longer budgets give longer prefixes.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    profile: Profile,
    kv_heads: usize,
    /// `n`: rows outside the window per KV head.
    n: usize,
    alpha_milli: u32,
    /// Entries that every head gets under [`Profile::Code`].
    floor: usize,
}

impl Rule {
    pub(crate) fn new(
        profile: Profile,
        config: &Config,
        kv_heads: usize,
        n: usize,
        budget: usize,
    ) -> Rule {
        Rule {
            profile,
            kv_heads,
            n,
            alpha_milli: config.alpha_milli,
            floor: code_floor(config, budget),
        }
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// How many entries of the layer's order a budget reaches.
    pub(crate) fn order_len(&self, budget: usize) -> usize {
        let entries = match self.profile {
            Profile::Exact => budget,
            Profile::Paper | Profile::Code => budget.saturating_mul(self.kv_heads),
        };
        entries.min(self.kv_heads * self.n)
    }

    /// The KV heads of the first `len` entries of the layer's order. `scores` `[Hkv, n]`.
    pub(crate) fn order_heads(&self, scores: &[f32], len: usize) -> Vec<u16> {
        match self.profile {
            Profile::Exact => ranking::mixed_heads(scores, self.kv_heads, self.alpha_milli, len),
            Profile::Paper | Profile::Code => ranking::best_heads(scores, self.kv_heads, len),
        }
    }

    /// Entries that a head keeps, `count` of which are within the layer's order as far as `budget`
    /// reaches.
    pub(crate) fn head_len(&self, budget: usize, count: usize) -> usize {
        match self.profile {
            Profile::Exact | Profile::Paper => count,
            Profile::Code if budget > self.n => self.n,
            Profile::Code => {
                let own = count as f64 * (1.0 - alpha(self.alpha_milli));
                ((own + self.floor as f64).round_ties_even() as usize).min(self.n)
            }
        }
    }
}

/// The head floor of the authors' code: a share of the whole `budget`, window included, the same
/// for all layers because a misspelt name keeps it from following the layer's own budget.
pub(crate) fn code_floor(config: &Config, budget: usize) -> usize {
    (budget as f64 * alpha(config.alpha_milli)) as usize
}

fn alpha(alpha_milli: u32) -> f64 {
    f64::from(alpha_milli) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_code_keeps_a_head_whole_only_if_the_budget_exceeds_it() {
        let rule = Rule::new(Profile::Code, &Config::default(), 2, 100, 40);
        assert_eq!(rule.head_len(101, 100), 100);
        assert_eq!(rule.head_len(100, 100), 88); // 0.8 · 100 + int(0.2 · 40)
        assert_eq!(rule.head_len(0, 0), 8);
    }
}
