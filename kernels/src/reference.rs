//! The kernels in their most readable form, in f64: what the fast ones must agree with. Tests only
//! call these; they take time and memory without care.

use crate::{AttentionShape, DecodeHead};

/// Causal softmax weights of query row `t`, head `g`: one per key position up to the row's own.
fn weights(q: &[f32], k: &[f32], s: &AttentionShape, t: usize, g: usize) -> Vec<f64> {
    let d = s.head_dim;
    let query = &q[(t * s.q_heads + g) * d..][..d];
    let h = g / (s.q_heads / s.kv_heads);
    let logits: Vec<f64> = (0..=s.first_position() + t)
        .map(|i| {
            let key = &k[(i * s.kv_heads + h) * d..][..d];
            dot(query, key) / (d as f64).sqrt()
        })
        .collect();
    softmax(&logits)
}

/// See [`crate::causal_attention`].
pub fn causal_attention(q: &[f32], k: &[f32], v: &[f32], s: &AttentionShape) -> Vec<f64> {
    let d = s.head_dim;
    let mut out = vec![0.0; s.queries * s.q_heads * d];
    for t in 0..s.queries {
        for g in 0..s.q_heads {
            let h = g / (s.q_heads / s.kv_heads);
            for (i, p) in weights(q, k, s, t, g).into_iter().enumerate() {
                for c in 0..d {
                    out[(t * s.q_heads + g) * d + c] += p * v[(i * s.kv_heads + h) * d + c] as f64;
                }
            }
        }
    }
    out
}

/// See [`crate::window_mean_attention`].
pub fn window_mean_attention(q: &[f32], k: &[f32], s: &AttentionShape) -> Vec<f64> {
    let n = s.first_position();
    let mut out = vec![0.0; s.q_heads * n];
    for t in 0..s.queries {
        for g in 0..s.q_heads {
            for (i, p) in weights(q, k, s, t, g).into_iter().take(n).enumerate() {
                out[g * n + i] += p / s.queries as f64;
            }
        }
    }
    out
}

/// See [`crate::decode_attention`]; for one KV head.
pub fn decode_attention(head: &DecodeHead<'_>, head_dim: usize) -> Vec<f64> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut left = head.rows;
    for page in &head.pages {
        let rows = left.min(head.page_rows);
        let mut scratch = Vec::new();
        let all = page.widen(&mut scratch);
        keys.extend_from_slice(&all[..rows * head_dim]);
        values.extend_from_slice(&all[head.page_rows * head_dim..][..rows * head_dim]);
        left -= rows;
    }
    let mut out = Vec::new();
    for query in head.queries.chunks(head_dim) {
        let logits: Vec<f64> = keys
            .chunks(head_dim)
            .map(|key| dot(query, key) / (head_dim as f64).sqrt())
            .collect();
        let p = softmax(&logits);
        for c in 0..head_dim {
            out.push(
                (0..p.len())
                    .map(|i| p[i] * values[i * head_dim + c] as f64)
                    .sum(),
            );
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|v| v / sum).collect()
}
