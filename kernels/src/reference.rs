//! The kernels in their most readable form, in f64: what the fast ones must agree with. Tests only
//! call these; they take time and memory without care.

use half::{bf16, f16};
use lava_kv::RowFormat;

use crate::{AttentionShape, DecodeHead, Half};

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

/// 32 values as a product with quantised weights sees them: multiples of a 127th of the largest.
pub fn round_to_8_bits(x: &[f32]) -> Vec<f64> {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 {
        return vec![0.0; x.len()];
    }
    let round = |x: &f32| {
        let exact = f64::from(*x) * f64::from(127.0 / largest);
        exact.round_ties_even() * f64::from(largest / 127.0)
    };
    x.iter().map(round).collect()
}

/// `x wᵀ`, each value with the sum of its terms' sizes: `x` is `[rows, cols]`, `w` `[out, cols]`.
pub fn product(x: &[f64], w: &[f32], cols: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for x in x.chunks_exact(cols) {
        for w in w.chunks_exact(cols) {
            let terms = x.iter().zip(w).map(|(x, w)| x * f64::from(*w));
            let (mut sum, mut size) = (0.0, 0.0);
            for term in terms {
                sum += term;
                size += term.abs();
            }
            out.push((sum, size));
        }
    }
    out
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

/// See [`crate::rotate`]; `signs` is 1 or -1 for each element.
pub fn rotate(x: &[f32], signs: &[f32]) -> Vec<f64> {
    let size = 1usize << x.len().trailing_zeros();
    let turned = |i: usize| {
        let block = i / size * size;
        let entry = |j: usize| match ((i % size) & j).count_ones() % 2 {
            0 => 1.0,
            _ => -1.0,
        };
        let sum: f64 = (0..size)
            .map(|j| entry(j) * f64::from(x[block + j] * signs[block + j]))
            .sum();
        sum / (size as f64).sqrt()
    };
    (0..x.len()).map(turned).collect()
}

/// What a row's bytes say: [`RowFormat`] and the files of `rows/` define it. Packed rows are rotated
/// back.
pub fn read_row(format: RowFormat, codes: &[u8], scale: &[u8]) -> Vec<f64> {
    let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
    let numbers: Vec<f64> = match format {
        RowFormat::F32 => {
            let four = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            codes.chunks(4).map(|b| f64::from(four(b))).collect()
        }
        RowFormat::F16 => codes
            .chunks(2)
            .map(|b| f16::from_le_bytes(pair(b)).to_f64())
            .collect(),
        RowFormat::Bf16 => codes
            .chunks(2)
            .map(|b| bf16::from_le_bytes(pair(b)).to_f64())
            .collect(),
        RowFormat::Int8 => codes.iter().map(|&b| f64::from(b) - 127.5).collect(),
        RowFormat::Fp8 => codes.iter().map(|&b| e4m3(b)).collect(),
        RowFormat::Int4 => {
            let low = codes.iter().map(|&b| f64::from(b % 16) - 7.5);
            low.chain(codes.iter().map(|&b| f64::from(b / 16) - 7.5))
                .collect()
        }
    };
    if !format.is_packed() {
        return numbers;
    }
    let scale = f16::from_le_bytes(pair(scale)).to_f64();
    let mut row: Vec<f32> = numbers.iter().map(|x| (x * scale) as f32).collect();
    crate::rotate_back(&mut row);
    row.into_iter().map(f64::from).collect()
}

fn e4m3(byte: u8) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
    match exponent {
        0 => sign * mantissa * 2f64.powi(-6),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - 7),
    }
}

/// See [`crate::decode_attention`]; for one KV head.
pub fn decode_attention(head: &DecodeHead<'_>, head_dim: usize) -> Vec<f64> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for run in &head.runs {
        let (c, s) = (run.format.code_bytes(head_dim), run.format.scale_bytes());
        for row in 0..run.rows {
            let read = |half: &Half<'_>| {
                read_row(
                    run.format,
                    &half.codes[row * c..][..c],
                    &half.scales[row * s..][..s],
                )
            };
            let mut key = read(&run.keys);
            if run.format.is_packed() {
                key.iter_mut()
                    .zip(head.mean_key)
                    .for_each(|(x, mean)| *x += f64::from(*mean));
            }
            keys.push(key);
            values.push(read(&run.values));
        }
    }
    let mut out = Vec::new();
    for query in head.queries.chunks(head_dim) {
        let logit = |key: &Vec<f64>| {
            let sum: f64 = query.iter().zip(key).map(|(&q, k)| f64::from(q) * k).sum();
            sum / (head_dim as f64).sqrt()
        };
        let logits: Vec<f64> = keys.iter().map(logit).collect();
        let p = softmax(&logits);
        for c in 0..head_dim {
            out.push(p.iter().zip(&values).map(|(p, value)| p * value[c]).sum());
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
