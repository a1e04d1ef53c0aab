//! How large a compact cache can get: the number that memory is reserved by.

use crate::rule::code_floor;
use crate::{Config, Policy, Profile, Shape};

/// Rows (pairs of key and value, window included) that the finished layers of a request hold at
/// most, at every step of the cascade and after prefill. `budget` is `b`: entries per KV head and
/// layer, window included.
///
/// `L · Hkv · N` if everything is kept; `L · Hkv · b` for [`Profile::Exact`] and
/// [`Profile::Paper`]; about `alpha · W` more per head and layer for [`Profile::Code`]. Saturates
/// at `usize::MAX`. Holds for requests that [`Cascade::new`](crate::Cascade::new) accepts.
pub fn rows_max(policy: Policy, config: &Config, shape: Shape, budget: usize) -> usize {
    let heads = shape.layers as u128 * shape.kv_heads as u128;
    let rows = match policy {
        _ if shape.keeps_everything(policy, config, budget) => heads * shape.tokens as u128,
        Policy::Lava(Profile::Code) => code_rows_max(config, shape, budget),
        Policy::Lava(Profile::Exact | Profile::Paper) | Policy::Full => heads * budget as u128,
    };
    usize::try_from(rows).unwrap_or(usize::MAX)
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
fn code_rows_max(config: &Config, shape: Shape, budget: usize) -> u128 {
    let n = shape.rows_outside_window(config) as u128;
    let layers = shape.layers as u128;
    let kv_heads = shape.kv_heads as u128;
    let total = layers * budget.saturating_sub(config.window) as u128;
    let own = u128::from(1000 - config.alpha_milli);
    let floor = code_floor(config, budget) as u128 * 1000 + round_up_max(config.alpha_milli);

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
    use crate::Cascade;

    const SHAPE: Shape = Shape {
        layers: 32,
        kv_heads: 8,
        tokens: 10_000,
    };

    #[track_caller]
    fn check(policy: Policy, shape: Shape, budget: usize, expected: usize) {
        assert_eq!(
            rows_max(policy, &Config::default(), shape, budget),
            expected
        );
    }

    #[test]
    fn the_budget_bounds_exact_and_paper_and_the_prompt_bounds_everything() {
        let short = Shape {
            tokens: 100,
            ..SHAPE
        };
        for profile in [Profile::Exact, Profile::Paper, Profile::Code] {
            check(Policy::Lava(profile), short, 128, 32 * 8 * 100);
        }
        check(Policy::Lava(Profile::Exact), SHAPE, 128, 32 * 8 * 128);
        check(Policy::Lava(Profile::Paper), SHAPE, 128, 32 * 8 * 128);
        check(Policy::Full, SHAPE, 128, 32 * 8 * 10_000);
    }

    #[test]
    fn the_released_code_exceeds_the_budget_by_its_floor() {
        // Per head: 0.8 · 96 + int(0.2 · 128) + 32 = 133.8, and rounding adds at most 0.4.
        check(
            Policy::Lava(Profile::Code),
            SHAPE,
            128,
            (32.0 * 8.0 * 134.2) as usize,
        );
    }

    #[test]
    fn a_whole_layer_under_the_released_code_nearly_fills_the_reservation() {
        let config = Config {
            window: 4,
            ..Config::default()
        };
        let shape = Shape {
            layers: 4,
            kv_heads: 1,
            tokens: 68,
        };
        let policy = Policy::Lava(Profile::Code);
        let mut cascade = Cascade::new(policy, &config, shape, 29).unwrap();
        cascade.push_layer(&[1.0; 64]).unwrap();
        let mut two = [0.0; 64];
        two[..2].fill(1.0);
        (0..3).for_each(|_| cascade.push_layer(&two).unwrap());
        // Budgets 66, 11, 11, 11: one layer whole, three of 0.8 · 11 + int(0.2 · 29), rounded.
        assert_eq!(cascade.rows_kept(), 64 + 3 * 14 + 4 * 4);
        assert_eq!(
            rows_max(policy, &config, shape, 29),
            cascade.rows_kept() + 2
        );
    }

    #[test]
    fn a_prompt_within_the_window_counts_whole_even_if_the_budget_is_smaller() {
        check(
            Policy::Lava(Profile::Exact),
            Shape {
                tokens: 20,
                ..SHAPE
            },
            8,
            32 * 8 * 20,
        );
    }

    #[test]
    fn absurd_sizes_saturate() {
        let shape = Shape {
            tokens: usize::MAX,
            ..SHAPE
        };
        check(Policy::Full, shape, 0, usize::MAX);
        check(
            Policy::Lava(Profile::Code),
            shape,
            usize::MAX - 1,
            usize::MAX,
        );
    }
}
