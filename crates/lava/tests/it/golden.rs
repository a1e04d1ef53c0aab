//! `vectors.json`: the toy model, from tensors to kept rows.

use std::collections::HashMap;

use lava::reference::Layer;
use lava::scores::{Observation, layer_scores};
use lava::{Cascade, Config, Policy, Shape, ranking};
use serde::Deserialize;

use crate::inputs::{ToyModel, fnv_positions};

const BUDGET: usize = 40;

#[derive(Deserialize)]
struct Vectors {
    first_values: Vec<f32>,
    profiles: HashMap<String, Expected>,
}

/// Axes: by layer, by step of the cascade, by KV head.
#[derive(Deserialize)]
struct Expected {
    entropy: Vec<f64>,
    entropy_q20: Vec<u32>,
    score_head0_first5: Vec<Vec<f64>>,
    budgets_by_step: Vec<Vec<usize>>,
    lower_bounds_by_step: Vec<Vec<usize>>,
    head_lengths_final: Vec<Vec<usize>>,
    certain_lengths_by_step: Vec<Vec<Vec<usize>>>,
    top10_layer0: Vec<Vec<u32>>,
    kept: Vec<Vec<Kept>>,
    total_nonwindow: usize,
    budget_nonwindow: usize,
}

#[derive(Deserialize)]
struct Kept {
    len: usize,
    fnv_sorted: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../data/vectors.json")).unwrap()
}

fn config() -> Config {
    Config {
        window: 8,
        kernel: 5,
        ..Config::default()
    }
}

/// Scores `[Hkv, n]` of the oracle, rounded to `f32`.
fn oracle_scores(layer: Layer<'_>) -> Vec<f32> {
    layer.scores(&config()).iter().map(|&s| s as f32).collect()
}

/// Scores `[Hkv, n]` as the engine gets them: attention and norms in `f32`, then [`layer_scores`].
fn engine_scores(layer: Layer<'_>) -> Vec<f32> {
    let mean_attention: Vec<f32> = layer.mean_attention(8).iter().map(|&a| a as f32).collect();
    let value_norms: Vec<f32> = layer
        .value_norms(&config())
        .iter()
        .map(|&v| v as f32)
        .collect();
    let observation = Observation {
        query_heads: layer.query_heads,
        mean_attention: &mean_attention,
        value_norms: &value_norms,
    };
    layer_scores(&config(), &observation)
}

fn check(profile: &str, scores: impl Fn(Layer<'_>) -> Vec<f32>) {
    let expected = &vectors().profiles[profile];
    let policy: Policy = format!("lava-{profile}").parse().unwrap();
    let (layers, kv_heads) = (ToyModel::LAYERS, ToyModel::KV_HEADS);
    let shape = Shape {
        layers,
        kv_heads,
        tokens: ToyModel::TOKENS,
    };
    let mut cascade = Cascade::new(policy, &config(), shape, BUDGET).unwrap();

    for (step, layer) in ToyModel::new().layers().enumerate() {
        let scores = scores(layer);
        for (&found, &expected) in scores.iter().zip(&expected.score_head0_first5[step]) {
            // f32 has 24 bits; a score is at most three roundings away from the f64 reference.
            assert!(
                (f64::from(found) / expected - 1.0).abs() < 2e-7,
                "{found} {expected}"
            );
        }
        if step == 0 {
            assert_eq!(
                ranking::best_positions(&scores, &[10, 10]),
                expected.top10_layer0
            );
        }
        cascade.push_layer(&scores).unwrap();

        let cuts: Vec<_> = (0..=step).map(|l| cascade.plan(l).unwrap().cut()).collect();
        let budgets: Vec<usize> = cuts.iter().map(|cut| cut.budget).collect();
        let bounds: Vec<usize> = cuts.iter().map(|cut| cut.certain).collect();
        let certain: Vec<&[usize]> = (0..=step).map(|l| cascade.certain(l)).collect();
        assert_eq!(budgets, expected.budgets_by_step[step]);
        assert_eq!(bounds, expected.lower_bounds_by_step[step]);
        assert_eq!(certain, expected.certain_lengths_by_step[step]);
    }

    let window: Vec<u32> = (192..200).collect();
    for layer in 0..layers {
        let plan = cascade.plan(layer).unwrap();
        // The scores carry a relative error of 2e-7, the entropy is their smooth mean.
        assert!((plan.entropy() - expected.entropy[layer]).abs() < 1e-8);
        assert_eq!(plan.entropy_q20(), expected.entropy_q20[layer]);
        assert_eq!(cascade.kept(layer), expected.head_lengths_final[layer]);
        for head in 0..kv_heads {
            let mut positions = [cascade.head_order(layer, head), &window].concat();
            positions.sort_unstable();
            let expected = &expected.kept[layer][head];
            assert_eq!(positions.len(), expected.len);
            assert_eq!(
                fnv_positions(&positions),
                expected.fnv_sorted,
                "layer {layer} head {head}"
            );
        }
    }
    let window_rows = layers * kv_heads * window.len();
    assert_eq!(cascade.rows_kept() - window_rows, expected.total_nonwindow);
    assert_eq!(
        layers * kv_heads * (BUDGET - window.len()),
        expected.budget_nonwindow
    );
}

#[test]
fn the_toy_model_is_the_one_of_the_script() {
    let model = ToyModel::new();
    assert_eq!(
        model.layers().next().unwrap().queries[..4],
        vectors().first_values
    );
}

#[test]
fn the_exact_profile_meets_the_reference_vectors() {
    check("exact", oracle_scores);
    check("exact", engine_scores);
}

#[test]
fn the_paper_profile_meets_the_reference_vectors() {
    check("paper", oracle_scores);
    check("paper", engine_scores);
}

#[test]
fn the_code_profile_meets_the_reference_vectors() {
    check("code", oracle_scores);
    check("code", engine_scores);
}
