//! One finished layer: its ranking, cut where the budgets of the layers so far allow.

use crate::budget::Cut;
use crate::entropy::in_q20;
use crate::rule::{Ranking, Rule};

/// The ranking of one finished layer, as far as its current cut. Memory is 2 bytes per entry of the
/// order and 4 per entry kept.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    entropy: f64,
    cut: Cut,
    /// KV head of each entry in the layer's order, as far as the budget reaches; empty where heads do
    /// not compete.
    heads: Vec<u16>,
    /// Length of the certain prefix of `heads`.
    certain_len: usize,
    within_budget: HeadCounts,
    within_certain: HeadCounts,
    head_order: Vec<Vec<u32>>,
}

/// Per KV head, `[Hkv]`.
#[derive(Debug, Clone)]
struct HeadCounts {
    /// Entries of the head in a prefix of the layer's order.
    in_order: Vec<usize>,
    /// Entries that the rule gives the head for that prefix.
    lens: Vec<usize>,
}

impl LayerPlan {
    pub(crate) fn new(rule: &Rule, ranking: Ranking<'_>, entropy: f64, cut: Cut) -> LayerPlan {
        let heads = rule.order_heads(ranking, rule.order_len(cut.budget));
        let mut within_budget = HeadCounts::new(rule);
        heads
            .iter()
            .for_each(|&head| within_budget.in_order[usize::from(head)] += 1);
        within_budget.set_lens(rule, cut.budget);

        let mut plan = LayerPlan {
            entropy,
            cut: Cut::default(),
            head_order: rule.best_positions(ranking, &within_budget.lens),
            heads,
            certain_len: 0,
            within_budget,
            within_certain: HeadCounts::new(rule),
        };
        plan.recut(rule, cut);
        plan
    }

    /// Moves the cut after one more layer. Walks only what is dropped and what becomes certain.
    pub(crate) fn recut(&mut self, rule: &Rule, cut: Cut) {
        // Integer budgets are monotone by themselves. Sums of `f64` round, and what was called
        // certain may have been shipped, so it stays.
        let certain = cut.certain.max(self.cut.certain);
        self.cut = Cut {
            budget: cut.budget.max(certain),
            certain,
        };

        for head in self.heads.drain(rule.order_len(self.cut.budget)..) {
            self.within_budget.in_order[usize::from(head)] -= 1;
        }
        free_slack(&mut self.heads);
        self.within_budget.set_lens(rule, self.cut.budget);
        for (order, &len) in self.head_order.iter_mut().zip(&self.within_budget.lens) {
            order.truncate(len);
            free_slack(order);
        }

        let certain_len = rule.order_len(certain);
        for &head in &self.heads[self.certain_len..certain_len] {
            self.within_certain.in_order[usize::from(head)] += 1;
        }
        self.certain_len = certain_len;
        self.within_certain.set_lens(rule, certain);
    }

    /// Normalised entropy of the layer's scores, in `[0, 1]`.
    pub fn entropy(&self) -> f64 {
        self.entropy
    }

    /// [`LayerPlan::entropy`] in Q20, in `1..=2^20`; what [`Profile::Exact`](crate::Profile::Exact)
    /// shares by unless it has other [layer weights](crate::LayerWeight).
    pub fn entropy_q20(&self) -> u32 {
        in_q20(self.entropy)
    }

    /// The current cut, before the limit of what the layer has.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Per KV head, `[Hkv]`: rows outside the window that are still kept.
    pub fn kept(&self) -> &[usize] {
        &self.within_budget.lens
    }

    /// Per KV head, `[Hkv]`: rows outside the window that will be kept in the end.
    pub fn certain(&self) -> &[usize] {
        &self.within_certain.lens
    }

    /// Positions that `head` still keeps, best first.
    pub fn head_order(&self, head: usize) -> &[u32] {
        &self.head_order[head]
    }
}

impl HeadCounts {
    fn new(rule: &Rule) -> HeadCounts {
        HeadCounts {
            in_order: vec![0; rule.kv_heads()],
            lens: vec![0; rule.kv_heads()],
        }
    }

    fn set_lens(&mut self, rule: &Rule, budget: usize) {
        for (len, &count) in self.lens.iter_mut().zip(&self.in_order) {
            *len = rule.head_len(budget, count);
        }
    }
}

/// Returns memory once half of it is unused: truncation alone frees nothing.
fn free_slack<T>(entries: &mut Vec<T>) {
    if entries.capacity() / 2 >= entries.len() {
        entries.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Policy, Profile, Shape};

    #[test]
    fn a_smaller_cut_gives_memory_back() {
        let recipe = Policy::Lava(Profile::Exact).recipe().unwrap();
        let shape = Shape {
            layers: 1,
            kv_heads: 2,
            tokens: 532,
        };
        let rule = Rule::new(recipe, &Config::default(), shape, 500, 100);
        let scores: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let cut = |budget| Cut { budget, certain: 0 };
        let mut plan = LayerPlan::new(&rule, Ranking::Scores(&scores), 1.0, cut(1000));
        plan.recut(&rule, cut(10));
        assert_eq!(plan.heads.capacity(), 10);
        assert!(plan.head_order.iter().all(|order| order.capacity() <= 10));
    }
}
