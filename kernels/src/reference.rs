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

/// What [`crate::observe`] gives, all of it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// `[Hq, n]`.
    pub mean: Vec<f64>,
    /// `[Hq, n]`, unbiased; 0 for a single row.
    pub variance: Vec<f64>,
    /// `[Hq, n]`.
    pub max: Vec<f64>,
    /// `-SUM A ln(A + 1e-10)`.
    pub entropy: f64,
}

/// See [`crate::observe`].
pub fn observe(q: &[f32], k: &[f32], s: &AttentionShape, columns: usize) -> Observed {
    let mut all = Observed {
        mean: Vec::new(),
        variance: Vec::new(),
        max: Vec::new(),
        entropy: 0.0,
    };
    let rows = s.queries as f64;
    for g in 0..s.q_heads {
        let weights: Vec<Vec<f64>> = (0..s.queries).map(|t| weights(q, k, s, t, g)).collect();
        for i in 0..columns {
            let column = weights.iter().map(|row| row.get(i).copied().unwrap_or(0.0));
            let mean = column.clone().sum::<f64>() / rows;
            let squares: f64 = column.clone().map(|a| (a - mean) * (a - mean)).sum();
            all.mean.push(mean);
            all.variance.push(squares / (rows - 1.0).max(1.0));
            all.max.push(column.clone().fold(0.0, f64::max));
            all.entropy -= column.map(|a| a * (a + 1e-10).ln()).sum::<f64>();
        }
    }
    all
}

/// See [`crate::value_output_norms`]; `weight` is the projection itself, `[hidden, Hq, D]`, and `heads` are
/// `Hq` and `Hkv`.
pub fn value_output_norms(
    v: &[f32],
    weight: &[f32],
    rows: usize,
    heads: (usize, usize),
    d: usize,
) -> Vec<f64> {
    let (q_heads, kv_heads) = heads;
    let group = q_heads / kv_heads;
    let mut out = Vec::new();
    for h in 0..kv_heads {
        for i in 0..rows {
            let value = &v[(i * kv_heads + h) * d..][..d];
            let norm = |g: usize| {
                let added = weight
                    .chunks(q_heads * d)
                    .map(|row| dot(&row[g * d..][..d], value));
                added.map(|x| x * x).sum::<f64>().sqrt()
            };
            out.push((h * group..(h + 1) * group).map(norm).sum::<f64>() / group as f64);
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
