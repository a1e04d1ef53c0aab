//! The fast forms against the slow ones of [`lava::reference`].

use lava::ranking::{Entries, mixed_heads};
use lava::reference::{self, Observed};
use lava::scores::layer_scores;
use lava::{Config, Gqa, LayerWeight, Method, ObservedRows, Policy, Pool, Score, ValueNorm};
use proptest::prelude::*;

use crate::inputs::{Rounded, mean_only};
use crate::laws::scores_strategy;

/// Every policy with every setting, as long as [`Config::check`] accepts it.
pub(crate) fn method_strategy() -> impl Strategy<Value = Method> {
    let milli = || prop_oneof![Just(0u32), Just(200), Just(500), Just(1000), 0u32..=1000];
    let score = prop_oneof![
        Just(Score::Lava),
        Just(Score::MaxClamp),
        Just(Score::ValueOutput),
        Just(Score::MaxClampValueOutput),
        Just(Score::RmsValueOutput),
    ];
    let reductions = (
        prop_oneof![Just(Pool::Max), Just(Pool::Avg), Just(Pool::None)],
        prop_oneof![Just(Gqa::Max), Just(Gqa::Mean)],
        prop_oneof![
            Just(ValueNorm::NonWindow),
            Just(ValueNorm::All),
            Just(ValueNorm::Off)
        ],
        (0usize..8).prop_map(|reach| 2 * reach + 1),
    );
    let weights = prop_oneof![
        Just(LayerWeight::Entropy),
        Just(LayerWeight::Uniform),
        Just(LayerWeight::Perplexity)
    ];
    let cake = (50u32..4000, 50u32..4000, 0u32..400_000);
    (
        prop::sample::select(&Policy::ALL[..]),
        (reductions, score, weights, cake),
        (
            milli(),
            milli(),
            prop_oneof![Just(1000), milli()],
            0usize..12,
        ),
        (1usize..9, 0usize..7, 1usize..25),
    )
        .prop_map(|(policy, kinds, shares, sizes)| {
            let (alpha_milli, layer_floor_milli, shoulder_milli, observers) = shares;
            let ((pool, gqa, value_norm, kernel), score, layer_weight, cake) = kinds;
            let (window, sinks, beta) = sizes;
            let config = Config {
                window,
                observers,
                kernel,
                pool,
                shoulder_milli,
                gqa,
                value_norm,
                alpha_milli,
                score,
                sinks,
                layer_floor_milli,
                layer_weight,
                beta,
                tau1_milli: cake.0,
                tau2_milli: cake.1,
                gamma_milli: cake.2,
            };
            Method { policy, config }
        })
}

/// Methods whose scores are read off an observation.
fn observing_strategy() -> impl Strategy<Value = Method> {
    method_strategy().prop_filter("observes nothing", |method| {
        method.observes().rows != ObservedRows::Nothing
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
        assert_eq!(layer.value_norms(value_norm, 2), expected, "{value_norm:?}");
    }
}

#[test]
fn an_observation_by_two_queries_is_what_they_say_together() {
    // One head of one dimension; all keys are equal, so every query attends evenly to what it sees.
    let layer = reference::Layer {
        queries: &[1.0; 4],
        keys: &[0.0; 4],
        values: &[3.0, 4.0, 0.0, 0.0],
        query_heads: 1,
        kv_heads: 1,
        head_dim: 1,
    };
    let method = Method {
        policy: Policy::Cake,
        config: Config {
            window: 2,
            ..Config::default()
        },
    };
    // Rows of 1/3 and 1/4, with two columns outside the window.
    let observed = layer.observe(&method, 3);
    let close = |found: &[f64], expected: f64| {
        assert_eq!(found.len(), 2);
        found
            .iter()
            .for_each(|x| assert!((x - expected).abs() < 1e-9, "{x} {expected}"));
    };
    close(&observed.mean, 7.0 / 24.0);
    close(&observed.max, 1.0 / 3.0);
    close(&observed.variance, 2.0 * (1.0f64 / 24.0).powi(2));
    let entropy = 2.0 * (3f64.ln() / 3.0 + 4f64.ln() / 4.0);
    assert!((observed.entropy - entropy).abs() < 1e-8);
    // Two query heads, projections [2, 0] and [0, -4] of width 2: lengths 2|v| and 4|v|, mean 3|v|.
    let pair = reference::Layer {
        query_heads: 2,
        ..layer
    };
    assert_eq!(
        pair.value_outputs(&[2.0, 0.0, 0.0, -4.0], 2, 2),
        [9.0, 12.0]
    );
}

proptest! {
    #[test]
    fn fast_scores_are_the_slow_scores(
        method in observing_strategy(),
        (kv_heads, group, n) in (1usize..4, 1usize..4, 1usize..40),
        attention in prop::collection::vec(0.0f32..1.0, 3 * 3 * 40),
        more in prop::collection::vec(0.0f32..1.0, 3 * 3 * 40),
        norms in prop::collection::vec(0.0f32..9.0, 3 * 40),
    ) {
        let query_heads = kv_heads * group;
        let wide = |xs: &[f32], len: usize| xs[..len].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let off = method.config.value_norm == ValueNorm::Off;
        let observed = Observed {
            query_heads,
            kv_heads,
            mean: wide(&attention, query_heads * n),
            variance: wide(&more, query_heads * n),
            max: wide(&more, query_heads * n),
            entropy: 2.5,
            rows: match method.observes().rows {
                ObservedRows::Last(rows) => rows,
                ObservedRows::All | ObservedRows::Nothing => n,
            },
            value_norms: if off { vec![1.0; kv_heads] } else { wide(&norms, kv_heads) },
            value_outputs: wide(&norms, kv_heads * n),
        };
        let fast = layer_scores(&method, &Rounded::new(&observed).observation());
        let slow = observed.scores(&method);
        prop_assert_eq!(fast.scores.len(), slow.len());
        for (fast, slow) in fast.scores.into_iter().zip(slow) {
            // f32 has 24 bits. A sum of at most 15 and then 9 terms of one sign, two quotients and
            // a product round 27 times at most.
            let tolerance = 27.0 * slow * f64::from(f32::EPSILON) / 2.0;
            prop_assert!((f64::from(fast) - slow).abs() <= 1.01 * tolerance, "{fast} {slow}");
        }
        if method.policy == Policy::Cake {
            let expected = observed.preference(&method.config);
            prop_assert!((fast.preference / expected - 1.0).abs() < 1e-9);
        } else {
            prop_assert_eq!(fast.preference, 0.0);
        }
    }

    #[test]
    fn methods_print_what_parses_back(method in method_strategy()) {
        let text = method.to_string();
        prop_assert_eq!(text.parse::<Method>().unwrap(), method, "{}", text);
    }

    #[test]
    fn a_nan_in_what_is_observed_reaches_the_scores(
        method in observing_strategy(),
        bad in 0usize..2 * 2 * 20,
    ) {
        let mut attention = vec![0.5f32; 2 * 2 * 20];
        attention[bad] = f32::NAN;
        let rows = match method.observes().rows {
            ObservedRows::Last(rows) => rows,
            ObservedRows::All | ObservedRows::Nothing => 20,
        };
        let observation = lava::scores::Observation {
            variance: &attention,
            max: &attention,
            rows,
            value_outputs: &[1.0; 40],
            ..mean_only(&method, &attention, 4, &[1.0, 2.0])
        };
        let found = layer_scores(&method, &observation);
        prop_assert!(found.scores.iter().any(|s| s.is_nan()));
    }

    #[test]
    fn a_partial_ranking_is_the_beginning_of_the_full_one(
        scores in scores_strategy(1..200),
        count in 0usize..220,
    ) {
        let full = reference::order(&scores);
        let entries = Entries { scores: &scores, kv_heads: 1, sinks: 0 };
        prop_assert_eq!(entries.best(count), &full[..count.min(full.len())]);
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

        let entries = Entries { scores, kv_heads, sinks: 0 };
        let walk = entries.best_heads(cut + kv_heads);
        let heads = mixed_heads(&walk, kv_heads, alpha_milli, cut);
        let mut counts = vec![0; kv_heads];
        heads.iter().for_each(|&head| counts[usize::from(head)] += 1);
        let of_head = entries.best_positions(&counts);
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
        let entries = Entries { scores, kv_heads, sinks: 0 };
        let plain = entries.best_heads(scores.len());
        let mixed = mixed_heads(&plain, kv_heads, alpha_milli, scores.len());
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
