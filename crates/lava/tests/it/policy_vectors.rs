//! `policy_vectors.json`: what every policy keeps of many small random models.

use std::collections::HashMap;

use lava::scores::layer_scores;
use lava::{Cascade, LayerScores, Method, ObservedRows, Policy, Shape};
use serde::Deserialize;

use crate::inputs::{Rounded, SplitMix64, ToyModel, ToySize, fnv_positions};

/// Width of the output projection behind [`Layer::value_outputs`](lava::reference::Layer::value_outputs).
const WIDTH: usize = 3;

/// A row: method; L, Hq, Hkv, N, d, b and seed; entries kept per layer and KV head, window included;
/// hashes of their positions.
#[derive(Deserialize)]
struct Case(
    String,
    (usize, usize, usize, usize, usize, usize, u64),
    Vec<Vec<usize>>,
    Vec<Vec<String>>,
);

fn check(Case(text, numbers, expected_lens, expected_hashes): &Case) -> Policy {
    let &(layers, query_heads, kv_heads, tokens, head_dim, budget, seed) = numbers;
    let method: Method = text.parse().unwrap();
    let size = ToySize {
        layers,
        query_heads,
        kv_heads,
        tokens,
        head_dim,
    };
    let shape = Shape {
        layers,
        kv_heads,
        tokens,
    };
    let mut cascade = Cascade::new(&method, shape, budget).unwrap();
    let mut projections = SplitMix64(seed ^ 0xFFFF_FFFF);
    for layer in ToyModel::new(seed, size).layers() {
        let projection = projections.tensor(query_heads * head_dim * WIDTH);
        let scores = if method.observes().rows == ObservedRows::Nothing {
            LayerScores::default()
        } else {
            let mut observed = layer.observe(&method, budget);
            let n = shape.rows_outside_window(&method, budget);
            observed.value_outputs = layer.value_outputs(&projection, WIDTH, n);
            layer_scores(&method, &Rounded::new(&observed).observation())
        };
        cascade.push_layer(scores).unwrap();
    }

    let window = (tokens - cascade.window_rows()) as u32..tokens as u32;
    for layer in 0..layers {
        for head in 0..kv_heads {
            let mut positions = cascade.head_order(layer, head).to_vec();
            positions.extend(window.clone());
            positions.sort_unstable();
            let found = (positions.len(), &fnv_positions(&positions)[..8]);
            let expected = (
                expected_lens[layer][head],
                &expected_hashes[layer][head][..],
            );
            assert_eq!(
                found, expected,
                "{text}, {numbers:?}, layer {layer}, head {head}: {positions:?}"
            );
        }
    }
    method.policy
}

#[test]
fn every_policy_meets_the_script_to_the_last_position() {
    let text = include_str!("../data/policy_vectors.json");
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    let mut counts = HashMap::new();
    for case in &cases {
        *counts.entry(check(case)).or_insert(0) += 1;
    }
    // Full keeps everything, random is its own reference, the other two profiles have vectors.json and
    // more_vectors.json.
    for policy in Policy::ALL {
        let without = ["full", "random", "lava-paper", "lava-code"];
        if !without.contains(&policy.to_string().as_str()) {
            assert!(counts[&policy] >= 40, "{policy}");
        }
    }
}
