//! SmolLM2 and Qwen2.5 as they are published: full-cache logits and greedy text against
//! candle-transformers, both with f32 weights.

use std::path::PathBuf;

use lava::Policy;
use lava_engine::WeightFormat;

use crate::{ours, theirs};

pub(crate) fn model(file: &str) -> PathBuf {
    let folder = std::env::var_os("LAVA_MODELS")
        .expect("LAVA_MODELS is not set: run `cargo xtask test`, which fetches the models");
    PathBuf::from(folder).join(file)
}

fn check(file: &str, prompt: &[u32], greedy: usize) {
    let path = model(file);
    // One after the other, so that two sets of f32 weights never exist at once.
    let (expected_logits, expected_ids, margins) = {
        let mut theirs = theirs::from_gguf(&path);
        let first = theirs(prompt, 0);
        let (mut ids, mut margins) = (Vec::new(), Vec::new());
        let mut logits = first.clone();
        for step in 0..greedy {
            let (id, margin) = best(&logits);
            ids.push(id);
            margins.push(margin);
            logits = theirs(&[id], prompt.len() + step);
        }
        (first, ids, margins)
    };
    let ours = ours::load(&path, WeightFormat::F32);
    let request = ours::request(prompt, Policy::Full, prompt.len());
    let logits = &ours::logits(&ours, &request, &[])[0];
    let difference = ours::difference(logits, &expected_logits);
    assert!(
        difference < 1e-3,
        "prefill logits differ by {difference} of the largest"
    );
    let ids = ours::greedy(&ours, &request, greedy);
    let close = margins.iter().position(|&m| m < 0.05).unwrap_or(greedy);
    assert_eq!(
        ids[..close],
        expected_ids[..close],
        "up to the first close choice, {close}"
    );
    assert!(close >= 4, "the prompt decides too little: {margins:?}");
}

/// The largest logit's id and its distance to the second.
fn best(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0] as u32, logits[order[0]] - logits[order[1]])
}

#[test]
fn smollm2_agrees_with_candle_transformers() {
    let question = [
        1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
    ];
    check("SmolLM2-135M-Instruct.Q4_1.gguf", &question, 24);
}

#[test]
fn qwen2_agrees_with_candle_transformers() {
    // Ids of code much like "def fibonacci(n):\n    if n <= 1:\n        return n\n    return"
    let code = [
        750, 75698, 1445, 982, 262, 421, 308, 2651, 220, 16, 510, 286, 470, 308, 198, 262, 470,
    ];
    check("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", &code, 12);
}
