//! The fast forms against the slow ones of [`lava::reference`].

use lava::reference;
use lava::scores::{Observation, layer_scores};
use lava::{Config, Gqa, Pool, ValueNorm, ranking};
use proptest::prelude::*;

use crate::laws::scores_strategy;

fn config_strategy() -> impl Strategy<Value = Config> {
    (
        prop_oneof![Just(Pool::Max), Just(Pool::Avg), Just(Pool::None)],
        prop_oneof![Just(Gqa::Max), Just(Gqa::Mean)],
        prop_oneof![Just(ValueNorm::NonWindow), Just(ValueNorm::Off)],
        (0usize..8).prop_map(|reach| 2 * reach + 1),
    )
        .prop_map(|(pool, gqa, value_norm, kernel)| Config {
            pool,
            gqa,
            value_norm,
            kernel,
            ..Config::default()
        })
}

#[test]
fn the_value_norm_looks_at_the_positions_it_names() {
    // Two KV heads, three positions; the last one is the window and has the largest row.
    let values = [
        1.0, -2.0, 0.5, 0.5, -4.0, 4.0, 0.0, 1.0, -5.0, 0.0, 3.0, -3.0,
    ];
    let layer = reference::Layer {
        queries: &[0.0; 12],
        keys: &[0.0; 12],
        values: &values,
        query_heads: 2,
        kv_heads: 2,
        head_dim: 2,
    };
    for (value_norm, expected) in [
        (ValueNorm::NonWindow, [3.0, 5.0]),
        (ValueNorm::All, [8.0, 6.0]),
        (ValueNorm::Off, [1.0, 1.0]),
    ] {
        let config = Config {
            window: 1,
            value_norm,
            ..Config::default()
        };
        assert_eq!(layer.value_norms(&config), expected, "{value_norm:?}");
    }
}

proptest! {
    #[test]
    fn fast_scores_are_the_slow_scores(
        config in config_strategy(),
        (kv_heads, group, n) in (1usize..4, 1usize..4, 0usize..40),
        attention in prop::collection::vec(0.0f32..1.0, 3 * 3 * 40),
        norms in prop::collection::vec(0.0f32..9.0, 3),
    ) {
        let query_heads = kv_heads * group;
        let mean_attention = &attention[..query_heads * n];
        let value_norms = &norms[..kv_heads];
        let fast = layer_scores(&config, &Observation { query_heads, mean_attention, value_norms });

        let wide = |xs: &[f32]| xs.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let off = config.value_norm == ValueNorm::Off;
        let norms = if off { vec![1.0; kv_heads] } else { wide(value_norms) };
        let slow = reference::scores(&config, query_heads, &wide(mean_attention), &norms);
        prop_assert_eq!(fast.len(), slow.len());
        for (fast, slow) in fast.into_iter().zip(slow) {
            // f32 has 24 bits. A sum of at most 15 and then 3 terms of one sign, two quotients and
            // a product round 20 times at most.
            let tolerance = 20.0 * slow * f64::from(f32::EPSILON) / 2.0;
            prop_assert!((f64::from(fast) - slow).abs() <= 1.01 * tolerance);
        }
    }

    #[test]
    fn a_nan_in_the_attention_reaches_the_scores(
        config in config_strategy(),
        bad in 0usize..2 * 2 * 20,
    ) {
        let mut mean_attention = vec![0.5f32; 2 * 2 * 20];
        mean_attention[bad] = f32::NAN;
        let observation = Observation {
            query_heads: 4,
            mean_attention: &mean_attention,
            value_norms: &[1.0, 2.0],
        };
        prop_assert!(layer_scores(&config, &observation).iter().any(|s| s.is_nan()));
    }

    #[test]
    fn a_partial_ranking_is_the_beginning_of_the_full_one(
        scores in scores_strategy(1..200),
        count in 0usize..220,
    ) {
        let full = reference::order(&scores);
        prop_assert_eq!(ranking::best(&scores, count), &full[..count.min(full.len())]);
    }

    #[test]
    fn a_partial_mixed_order_is_the_beginning_of_the_full_one(
        (kv_heads, n) in (1usize..9, 1usize..40),
        scores in scores_strategy(8 * 40..8 * 40 + 1),
        alpha_milli in prop_oneof![Just(0u32), Just(200), Just(500), Just(1000), 0u32..=1000],
        cut in 0usize..8 * 40 + 2,
    ) {
        let scores = &scores[..kv_heads * n];
        let full = reference::mixed_order(scores, kv_heads, alpha_milli);
        prop_assert_eq!(full.len(), kv_heads * n);
        let full = &full[..cut.min(full.len())];

        let heads = ranking::mixed_heads(scores, kv_heads, alpha_milli, cut);
        let mut counts = vec![0; kv_heads];
        heads.iter().for_each(|&head| counts[usize::from(head)] += 1);
        let of_head = ranking::best_positions(scores, &counts);
        let mut next: Vec<_> = of_head.iter().map(|positions| positions.iter()).collect();
        let mixed: Vec<u32> = heads
            .iter()
            .map(|&head| head as u32 * n as u32 + next[usize::from(head)].next().unwrap())
            .collect();
        prop_assert_eq!(mixed, full);
    }

    #[test]
    fn every_prefix_honours_the_head_floor(
        (kv_heads, n) in (1usize..9, 1usize..30),
        scores in scores_strategy(8 * 30..8 * 30 + 1),
        alpha_milli in 0u32..=1000,
    ) {
        let scores = &scores[..kv_heads * n];
        let alpha = f64::from(alpha_milli) / 1000.0;
        let plain = ranking::best_heads(scores, kv_heads, scores.len());
        let mixed = ranking::mixed_heads(scores, kv_heads, alpha_milli, scores.len());
        let mut own = vec![0.0; kv_heads];
        let mut emitted = vec![0.0; kv_heads];
        for x in 0..scores.len() {
            own[usize::from(plain[x])] += 1.0;
            emitted[usize::from(mixed[x])] += 1.0;
            for head in 0..kv_heads {
                let mix = (1.0 - alpha) * own[head] + alpha * (x + 1) as f64 / kv_heads as f64;
                prop_assert!((emitted[head] - mix).abs() < kv_heads as f64 + 1e-9);
            }
        }
    }
}
