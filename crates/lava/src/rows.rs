//! How large a compact cache can get: the number that memory is reserved by.

use crate::budget::FixedBudgets;
use crate::recipe::{HeadRule, LayerRule};
use crate::rule::{alpha_share, request_floor};
use crate::{Method, Shape};

/// Rows (pairs of key and value, window included) that a request keeps at most after prefill, and so
/// ships. `budget` is `b`: entries per KV head and layer, window included.
///
/// `L · Hkv · N` if everything is kept, else about `L · Hkv · b`: exactly that for most policies; about
/// `alpha · W` more per head and layer for [`Profile::Code`](crate::Profile::Code); up to `(L - 1) / 2`
/// more for the pyramids, whose steps are rounded down; up to half an entry more for the Ada
/// policies, whose heads are rounded. Saturates at `usize::MAX`. Holds for requests that
/// [`Cascade::new`](crate::Cascade::new) accepts.
pub fn rows_max(method: &Method, shape: Shape, budget: usize) -> usize {
    usize::try_from(rows_max_wide(method, shape, budget)).unwrap_or(usize::MAX)
}

/// Rows that the finished layers of a request hold at most, at any step of the cascade:
/// [`rows_max`], but for [`Policy::Cake`](crate::Policy::Cake), which knows no budget before the last
/// layer. All layers but the last then hold what one layer can get at most.
pub fn rows_peak(method: &Method, shape: Shape, budget: usize) -> usize {
    let max = rows_max_wide(method, shape, budget);
    let recipe = method.policy.recipe();
    let evicts = !shape.keeps_everything(method, budget);
    let peak = match recipe.map(|recipe| recipe.layers) {
        Some(LayerRule::Preferences) if evicts => {
            let window = shape.window_rows(method, budget) as u128;
            let n = shape.rows_outside_window(method, budget) as u128;
            let total = shape.layers as u128 * contested(method, budget) as u128;
            let held = shape.layers.saturating_sub(1) as u128 * shape.kv_heads as u128;
            max.max(held * (n.min(total) + window))
        }
        _ => max,
    };
    usize::try_from(peak).unwrap_or(usize::MAX)
}

fn rows_max_wide(method: &Method, shape: Shape, budget: usize) -> u128 {
    let heads = shape.layers as u128 * shape.kv_heads as u128;
    let recipe = match method.policy.recipe() {
        Some(recipe) if !shape.keeps_everything(method, budget) => recipe,
        _ => return heads * shape.tokens as u128,
    };
    let n = shape.rows_outside_window(method, budget);
    let contested = contested(method, budget);
    let fixed = match recipe.layers {
        LayerRule::Uniform => FixedBudgets::uniform(contested),
        LayerRule::Pyramid => FixedBudgets::pyramid(shape.layers, contested, n, method.config.beta),
        LayerRule::Weights if matches!(recipe.heads, HeadRule::Raised(_)) => {
            return code_rows_max(method, shape, budget);
        }
        LayerRule::Weights | LayerRule::Preferences => return heads * budget as u128,
    };
    let of_head = |budget: usize| match recipe.heads {
        HeadRule::Raised(_) => raised_rows_max(method.config.alpha_milli, budget, n),
        HeadRule::Mixed | HeadRule::Best | HeadRule::Even => budget.min(n) as u128 * 1000,
    };
    let outside: u128 = (0..shape.layers)
        .map(|layer| of_head(fixed.of_layer(layer)) * shape.kv_heads as u128 / 1000)
        .sum();
    outside + heads * shape.window_rows(method, budget) as u128
}

/// Entries per KV head and layer outside the window, for budgets that are accepted.
fn contested(method: &Method, budget: usize) -> usize {
    budget.saturating_sub(method.window(budget))
}

/// The most that a layer with this budget per KV head keeps under the Ada policies, as a mean over its
/// heads in thousandths: their entries within the budget sum to `Hkv · budget`.
fn raised_rows_max(alpha_milli: u32, budget: usize, n: usize) -> u128 {
    let whole = n as u128 * 1000;
    if budget > n {
        return whole;
    }
    let own = u128::from(1000 - alpha_milli) * budget as u128;
    let floor = alpha_share(alpha_milli, budget) as u128 * 1000;
    whole.min(own + floor + round_up_max(alpha_milli))
}

/// The bound for [`Profile::Code`].
///
/// Let a layer have a budget of `C` per KV head, and its heads `c_h` entries within it, so that
/// `SUM_h c_h = Hkv · C`. If `C > n`, the layer keeps `Hkv · n` rows. Otherwise head `h` keeps at most
/// `own · c_h + floor` rows, where `own = 1 - alpha` and `floor` includes what rounding may add.
/// The budgets of all layers sum to at most `total = L · (b - W)`, and `s` layers with `C > n` use up
/// `s · (n + 1)` of it, so per KV head the request keeps at most
///
/// ```text
/// s · n + own · (total - s · (n + 1)) + (L - s) · floor
/// ```
///
/// This is linear in `s`, so it is largest at one end of the range of `s`. Terms below are in
/// thousandths.
fn code_rows_max(method: &Method, shape: Shape, budget: usize) -> u128 {
    let config = &method.config;
    let n = shape.rows_outside_window(method, budget) as u128;
    let layers = shape.layers as u128;
    let kv_heads = shape.kv_heads as u128;
    let total = layers * budget.saturating_sub(config.window) as u128;
    let own = u128::from(1000 - config.alpha_milli);
    let floor = request_floor(config, budget) as u128 * 1000 + round_up_max(config.alpha_milli);

    let with_full_layers =
        |s: u128| s * n * 1000 + own * (total - s * (n + 1)) + (layers - s) * floor;
    let full_layers_max = layers.min(total / (n + 1));
    let rows = with_full_layers(0).max(with_full_layers(full_layers_max)) * kv_heads / 1000;
    rows.min(layers * kv_heads * n) + layers * kv_heads * config.window as u128
}

/// The most that rounding adds to a multiple of `1 - alpha`, in thousandths: fractions are
/// multiples of `gcd(1000 - alpha, 1000)`, and those of one half and more may round up.
fn round_up_max(alpha_milli: u32) -> u128 {
    let step = gcd(1000, 1000 - alpha_milli);
    u128::from(500 / step * step)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cascade, LayerScores};

    const SHAPE: Shape = Shape {
        layers: 32,
        kv_heads: 8,
        tokens: 10_000,
    };

    fn method(text: &str) -> Method {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(text: &str, shape: Shape, budget: usize, expected: usize) {
        assert_eq!(rows_max(&method(text), shape, budget), expected, "{text}");
    }

    #[test]
    fn the_budget_bounds_most_policies_and_the_prompt_bounds_everything() {
        let short = Shape {
            tokens: 100,
            ..SHAPE
        };
        for policy in crate::Policy::NAMES {
            check(policy, short, 128, 32 * 8 * 100);
        }
        for policy in [
            "lava",
            "lava-paper",
            "lava-uniform",
            "lava-heads",
            "snapkv",
            "cake",
            "streaming-llm",
            "h2o",
            "tova",
            "random",
        ] {
            check(policy, SHAPE, 128, 32 * 8 * 128);
        }
        check("full", SHAPE, 128, 32 * 8 * 10_000);
    }

    #[test]
    fn a_pyramid_exceeds_the_budget_by_the_rounding_of_its_steps() {
        // 188, 182, ... 2 with steps of int(184 / 31): half a step of 29 short at the end.
        let sum: usize = (0..32).map(|layer| 188 - layer * 5).sum();
        check("pyramidkv", SHAPE, 128, 8 * (sum + 32 * 32));
    }

    #[test]
    fn ada_exceeds_the_budget_by_rounding_only() {
        // 0.8 · 96 + int(0.2 · 96) = 95.8, and rounding adds at most 0.4.
        let of_layer = (8.0 * 96.2f64) as usize;
        check("ada-snapkv", SHAPE, 128, 32 * (of_layer + 8 * 32));
    }

    #[test]
    fn only_cake_holds_more_on_the_way() {
        for policy in crate::Policy::NAMES {
            let (max, peak) = (
                rows_max(&method(policy), SHAPE, 128),
                rows_peak(&method(policy), SHAPE, 128),
            );
            let expected = if policy == "cake" {
                31 * 8 * (32 * 96 + 32)
            } else {
                max
            };
            assert_eq!(peak, expected, "{policy}");
        }
    }

    #[test]
    fn the_released_code_exceeds_the_budget_by_its_floor() {
        // Per head: 0.8 · 96 + int(0.2 · 128) + 32 = 133.8, and rounding adds at most 0.4.
        check("lava-code", SHAPE, 128, (32.0 * 8.0 * 134.2) as usize);
    }

    #[test]
    fn a_whole_layer_under_the_released_code_nearly_fills_the_reservation() {
        let shape = Shape {
            layers: 4,
            kv_heads: 1,
            tokens: 68,
        };
        let method = method("lava-code+window=4");
        let mut cascade = Cascade::new(&method, shape, 29).unwrap();
        cascade.push_layer(vec![1.0; 64].into()).unwrap();
        let mut two = vec![0.0; 64];
        two[..2].fill(1.0);
        for _ in 0..3 {
            cascade.push_layer(LayerScores::from(two.clone())).unwrap();
        }
        // Budgets 66, 11, 11, 11: one layer whole, three of 0.8 · 11 + int(0.2 · 29), rounded.
        assert_eq!(cascade.rows_kept(), 64 + 3 * 14 + 4 * 4);
        assert_eq!(rows_max(&method, shape, 29), cascade.rows_kept() + 2);
    }

    #[test]
    fn a_prompt_within_the_window_counts_whole_even_if_the_budget_is_smaller() {
        let shape = Shape {
            tokens: 20,
            ..SHAPE
        };
        check("lava", shape, 8, 32 * 8 * 20);
    }

    #[test]
    fn absurd_sizes_saturate() {
        let shape = Shape {
            tokens: usize::MAX,
            ..SHAPE
        };
        for policy in crate::Policy::NAMES {
            let budget = if policy == "full" { 0 } else { usize::MAX - 1 };
            check(policy, shape, budget, usize::MAX);
            assert_eq!(rows_peak(&method(policy), shape, budget), usize::MAX);
        }
    }
}
