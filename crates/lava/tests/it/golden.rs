//! `vectors.json`: the toy model, from tensors to kept rows.

use std::collections::HashMap;

use lava::reference::Layer;
use lava::scores::layer_scores;
use lava::{Cascade, LayerScores, Method, Policy, Shape, ranking};
use serde::Deserialize;
use serde_json::Value;

use crate::inputs::{Rounded, ToyModel, ToySize, fnv_positions};

const BUDGET: usize = 40;

const SIZE: ToySize = ToySize {
    layers: 4,
    query_heads: 8,
    kv_heads: 2,
    tokens: 200,
    head_dim: 16,
};

const SHAPE: Shape = Shape {
    layers: SIZE.layers,
    kv_heads: SIZE.kv_heads,
    tokens: SIZE.tokens,
};

fn toy_model() -> ToyModel {
    ToyModel::new(1, SIZE)
}

#[derive(Deserialize)]
struct Vectors {
    first_values: Vec<f32>,
    profiles: HashMap<String, Expected>,
    /// By layer and KV head; the caps that the script found are beside them.
    baselines: HashMap<String, Value>,
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

#[derive(Debug, PartialEq, Deserialize)]
struct Kept {
    len: usize,
    fnv_sorted: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../data/vectors.json")).unwrap()
}

fn method(policy: Policy) -> Method {
    let mut method = Method::new(policy);
    method.config.window = 8;
    method.config.kernel = 5;
    method
}

/// Scores of the oracle, rounded to `f32`.
fn oracle_scores(method: &Method, layer: Layer<'_>) -> LayerScores {
    let observed = layer.observe(method, BUDGET);
    let scores = observed.scores(method).iter().map(|&s| s as f32).collect();
    LayerScores {
        scores,
        preference: observed.preference(&method.config),
    }
}

/// Scores as the engine gets them: observed in `f32`, then [`layer_scores`].
fn engine_scores(method: &Method, layer: Layer<'_>) -> LayerScores {
    let rounded = Rounded::new(&layer.observe(method, BUDGET));
    layer_scores(method, &rounded.observation())
}

type Scores = fn(&Method, Layer<'_>) -> LayerScores;

fn check(profile: &str, scores: Scores) {
    let expected = &vectors().profiles[profile];
    let method = method(format!("lava-{profile}").parse().unwrap());
    let mut cascade = Cascade::new(&method, SHAPE, BUDGET).unwrap();

    for (step, layer) in toy_model().layers().enumerate() {
        let LayerScores { scores, .. } = scores(&method, layer);
        for (&found, &expected) in scores.iter().zip(&expected.score_head0_first5[step]) {
            // f32 has 24 bits; a score is at most three roundings away from the f64 reference.
            assert!(
                (f64::from(found) / expected - 1.0).abs() < 2e-7,
                "{found} {expected}"
            );
        }
        if step == 0 {
            let entries = ranking::Entries {
                scores: &scores,
                kv_heads: SIZE.kv_heads,
                sinks: 0,
            };
            assert_eq!(entries.best_positions(&[10, 10]), expected.top10_layer0);
        }
        cascade.push_layer(scores.into()).unwrap();

        let cuts: Vec<_> = (0..=step).map(|l| cascade.plan(l).unwrap().cut()).collect();
        let budgets: Vec<usize> = cuts.iter().map(|cut| cut.budget).collect();
        let bounds: Vec<usize> = cuts.iter().map(|cut| cut.certain).collect();
        let certain: Vec<&[usize]> = (0..=step).map(|l| cascade.certain(l)).collect();
        assert_eq!(budgets, expected.budgets_by_step[step]);
        assert_eq!(bounds, expected.lower_bounds_by_step[step]);
        assert_eq!(certain, expected.certain_lengths_by_step[step]);
    }

    for layer in 0..SIZE.layers {
        let plan = cascade.plan(layer).unwrap();
        // The scores carry a relative error of 2e-7, the entropy is their smooth mean.
        assert!((plan.entropy() - expected.entropy[layer]).abs() < 1e-8);
        assert_eq!(plan.entropy_q20(), expected.entropy_q20[layer]);
        assert_eq!(cascade.kept(layer), expected.head_lengths_final[layer]);
        assert_eq!(kept(&cascade, layer), expected.kept[layer], "layer {layer}");
    }
    let heads = SIZE.layers * SIZE.kv_heads;
    let outside = cascade.rows_kept() - heads * cascade.window_rows();
    assert_eq!(outside, expected.total_nonwindow);
    let contested = heads * (BUDGET - cascade.window_rows());
    assert_eq!(contested, expected.budget_nonwindow);
}

/// What a finished layer keeps, per KV head, window included.
fn kept(cascade: &Cascade, layer: usize) -> Vec<Kept> {
    let window = (SIZE.tokens - cascade.window_rows()) as u32..SIZE.tokens as u32;
    let of_head = |head| {
        let mut positions = cascade.head_order(layer, head).to_vec();
        positions.extend(window.clone());
        positions.sort_unstable();
        Kept {
            len: positions.len(),
            fnv_sorted: fnv_positions(&positions),
        }
    };
    (0..SIZE.kv_heads).map(of_head).collect()
}

fn check_baseline(policy: Policy, name: &str) {
    let expected: Vec<Vec<Kept>> =
        serde_json::from_value(vectors().baselines[name].clone()).unwrap();
    let method = method(policy);
    for scores in [oracle_scores as Scores, engine_scores] {
        let mut cascade = Cascade::new(&method, SHAPE, BUDGET).unwrap();
        for layer in toy_model().layers() {
            cascade.push_layer(scores(&method, layer)).unwrap();
        }
        for (layer, expected) in expected.iter().enumerate() {
            assert_eq!(kept(&cascade, layer), *expected, "{policy} layer {layer}");
        }
    }
}

#[test]
fn the_baselines_meet_the_reference_vectors() {
    check_baseline(Policy::SnapKv, "snapkv");
    check_baseline(Policy::PyramidKv, "pyramidkv_b20");
    check_baseline(Policy::AdaSnapKv, "ada_snapkv");
    check_baseline(Policy::AdaPyramidKv, "ada_pyramidkv_b20");
    check_baseline(Policy::Cake, "cake");
    check_baseline(Policy::StreamingLlm, "streamingllm");
    check_baseline(Policy::H2o, "h2o");
    check_baseline(Policy::Tova, "tova");
}

#[test]
fn the_toy_model_is_the_one_of_the_script() {
    let model = toy_model();
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
