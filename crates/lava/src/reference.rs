//! The specification: slow, readable `f64` forms of what the rest of the crate and the kernels
//! compute fast. For tests only; [`Layer::observe`] costs `O(Hq · W · N · D)` without any care for
//! the cache. `tests/data/reference.py` says the same in numpy.

use crate::recipe::ScoreRule;
use crate::{Config, Gqa, Method, ObservedRows, Pool, Score, ValueNorm};

/// One layer's tensors after RoPE, `f32`, contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `[Hq, N, D]`.
    pub queries: &'a [f32],
    /// `[Hkv, N, D]`.
    pub keys: &'a [f32],
    /// `[Hkv, N, D]`.
    pub values: &'a [f32],
    /// `Hq`, a multiple of `Hkv`.
    pub query_heads: usize,
    /// `Hkv`.
    pub kv_heads: usize,
    /// `D`.
    pub head_dim: usize,
}

impl Layer<'_> {
    /// `N`.
    pub fn tokens(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.head_dim)
    }

    /// `[Hq, rows, columns]`: causal softmax over all `N` keys of the last `rows` queries, the first
    /// `columns` columns of it.
    pub fn attention(&self, rows: usize, columns: usize) -> Vec<f64> {
        let tokens = self.tokens();
        let mut attention = Vec::with_capacity(self.query_heads * rows * columns);
        for query_head in 0..self.query_heads {
            let kv_head = query_head / (self.query_heads / self.kv_heads);
            for query in tokens - rows..tokens {
                let q = self.row(self.queries, query_head, query);
                let logits: Vec<f64> = (0..=query)
                    .map(|key| {
                        dot(q, self.row(self.keys, kv_head, key)) / (self.head_dim as f64).sqrt()
                    })
                    .collect();
                let mut row = softmax(&logits);
                row.resize(columns, 0.0);
                attention.extend(row);
            }
        }
        attention
    }

    /// Everything that any method observes of the layer, but for
    /// [`value_outputs`](Observed::value_outputs). The prompt is longer than the window.
    pub fn observe(&self, method: &Method, budget: usize) -> Observed {
        let n = self.tokens() - method.window(budget);
        let observing = method.observes().rows;
        let rows = match observing {
            ObservedRows::Last(rows) => rows,
            ObservedRows::All | ObservedRows::Nothing => self.tokens(),
        };
        let attention = self.attention(rows, n);
        // Per query head and position, over the rows.
        let reduce = |reduce: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
            let of_head = |head: &[f64]| -> Vec<f64> {
                let column = |i| {
                    head.iter()
                        .skip(i)
                        .step_by(n)
                        .copied()
                        .collect::<Vec<f64>>()
                };
                (0..n).map(|i| reduce(&column(i))).collect()
            };
            attention.chunks(rows * n).flat_map(of_head).collect()
        };
        Observed {
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            mean: match observing {
                ObservedRows::All => reduce(&|column| column.iter().sum()),
                ObservedRows::Last(_) | ObservedRows::Nothing => reduce(&mean),
            },
            variance: reduce(&variance),
            max: reduce(&|column| column.iter().copied().fold(0.0, f64::max)),
            entropy: -attention.iter().map(|a| a * (a + 1e-10).ln()).sum::<f64>(),
            rows,
            value_norms: self.value_norms(method.config.value_norm, n),
            value_outputs: Vec::new(),
        }
    }

    /// `[Hkv]`: the largest L1 norm among the value rows that `value_norm` names, `n` of which are
    /// outside the window; 1 if it is off.
    pub fn value_norms(&self, value_norm: ValueNorm, n: usize) -> Vec<f64> {
        let positions = match value_norm {
            ValueNorm::NonWindow => n,
            ValueNorm::All => self.tokens(),
            ValueNorm::Off => return vec![1.0; self.kv_heads],
        };
        let l1 = |head, position| -> f64 {
            self.row(self.values, head, position)
                .iter()
                .map(|&x| f64::from(x.abs()))
                .sum()
        };
        (0..self.kv_heads)
            .map(|head| {
                (0..positions)
                    .map(|position| l1(head, position))
                    .fold(0.0, f64::max)
            })
            .collect()
    }

    /// `[Hkv, n]`: length of each of the first `n` value rows after the output projection
    /// `[Hq, D, width]`, mean over the group.
    pub fn value_outputs(&self, projection: &[f32], width: usize, n: usize) -> Vec<f64> {
        let group = self.query_heads / self.kv_heads;
        let norm = |query_head: usize, position: usize| -> f64 {
            let value = self.row(self.values, query_head / group, position);
            let of_head = &projection[query_head * self.head_dim * width..];
            let output = |i| -> f64 {
                let column = of_head[i..].iter().step_by(width);
                value
                    .iter()
                    .zip(column)
                    .map(|(&v, &w)| f64::from(v) * f64::from(w))
                    .sum()
            };
            (0..width).map(|i| output(i).powi(2)).sum::<f64>().sqrt()
        };
        let mut outputs = Vec::with_capacity(self.kv_heads * n);
        for kv_head in 0..self.kv_heads {
            for position in 0..n {
                let of_group = (kv_head * group..(kv_head + 1) * group).map(|g| norm(g, position));
                outputs.push(of_group.sum::<f64>() / group as f64);
            }
        }
        outputs
    }

    /// Row `[D]` of a `[heads, N, D]` tensor.
    fn row<'t>(&self, tensor: &'t [f32], head: usize, position: usize) -> &'t [f32] {
        &tensor[(head * self.tokens() + position) * self.head_dim..][..self.head_dim]
    }
}

/// [`Observation`](crate::scores::Observation) in `f64`, every field filled.
#[derive(Debug, Clone)]
pub struct Observed {
    /// `Hq`.
    pub query_heads: usize,
    /// `Hkv`.
    pub kv_heads: usize,
    /// `[Hq, n]`.
    pub mean: Vec<f64>,
    /// `[Hq, n]`, unbiased.
    pub variance: Vec<f64>,
    /// `[Hq, n]`.
    pub max: Vec<f64>,
    /// `-SUM A ln(A + 1e-10)`.
    pub entropy: f64,
    /// How many rows observe.
    pub rows: usize,
    /// `[Hkv]`.
    pub value_norms: Vec<f64>,
    /// `[Hkv, n]`.
    pub value_outputs: Vec<f64>,
}

impl Observed {
    /// `[Hkv, n]`: the oracle of [`scores::layer_scores`](crate::scores::layer_scores), for methods
    /// that observe something.
    pub fn scores(&self, method: &Method) -> Vec<f64> {
        let config = &method.config;
        let n = self.mean.len() / self.query_heads;
        let group = self.query_heads / self.kv_heads;
        let rule = method.policy.recipe().expect("the policy evicts").score;
        let gamma = f64::from(config.gamma_milli) / 1000.0;
        let biased = (self.rows as f64 - 1.0) / self.rows as f64;

        // One row [n] of what attention is to this method.
        let attention = |query_head: usize| -> Vec<f64> {
            let of = |i: usize| match (rule, config.score) {
                (ScoreRule::Cake, _) => self.mean[i] + gamma * self.variance[i],
                (ScoreRule::Configured, Score::MaxClamp | Score::MaxClampValueOutput) => {
                    self.max[i]
                }
                (ScoreRule::Configured, Score::RmsValueOutput) => {
                    (self.mean[i] * self.mean[i] + self.variance[i] * biased).sqrt()
                }
                _ => self.mean[i],
            };
            (query_head * n..(query_head + 1) * n).map(of).collect()
        };
        let clamps = matches!(config.score, Score::MaxClamp | Score::MaxClampValueOutput);
        let largest = clamps || config.gqa == Gqa::Max;
        let largest = largest && rule == ScoreRule::Configured;
        let grouped = |rows: &[Vec<f64>], i: usize| -> f64 {
            if largest {
                rows.iter()
                    .map(|row| row[i])
                    .fold(f64::NEG_INFINITY, f64::max)
            } else {
                rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64
            }
        };
        let pooled_row =
            |row: &[f64]| -> Vec<f64> { (0..n).map(|i| pooled(config, row, i)).collect() };

        let mut scores = Vec::with_capacity(self.kv_heads * n);
        for kv_head in 0..self.kv_heads {
            let of_group: Vec<Vec<f64>> = match rule {
                ScoreRule::LastQuery => (0..self.query_heads).map(attention).collect(),
                _ => (kv_head * group..(kv_head + 1) * group)
                    .map(attention)
                    .collect(),
            };
            let row: Vec<f64> = match rule {
                ScoreRule::Snap => {
                    let row: Vec<f64> = (0..n).map(|i| grouped(&of_group, i)).collect();
                    pooled_row(&row)
                }
                ScoreRule::AllQueries | ScoreRule::LastQuery => {
                    (0..n).map(|i| grouped(&of_group, i)).collect()
                }
                _ => {
                    let rows: Vec<Vec<f64>> = of_group.iter().map(|row| pooled_row(row)).collect();
                    (0..n).map(|i| grouped(&rows, i)).collect()
                }
            };
            if rule != ScoreRule::Configured {
                scores.extend(row);
                continue;
            }
            let least = if clamps { mean(&row) } else { 0.0 };
            scores.extend(row.iter().enumerate().map(|(i, &x)| {
                let worth = match config.score {
                    Score::Lava | Score::MaxClamp => self.value_norms[kv_head],
                    _ => self.value_outputs[kv_head * n + i],
                };
                x.max(least) * worth
            }));
        }
        scores
    }

    /// CAKE's `P_l`.
    pub fn preference(&self, config: &Config) -> f64 {
        let exponent = |tau_milli: u32| 1000.0 / f64::from(tau_milli);
        self.entropy.max(0.0).powf(exponent(config.tau1_milli))
            * self
                .variance
                .iter()
                .sum::<f64>()
                .powf(exponent(config.tau2_milli))
    }
}

/// Indices of `scores` in the strict order: the oracle of
/// [`Entries::best`](crate::ranking::Entries::best) without sinks.
pub fn order(scores: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let of = |index: u32| scores[index as usize];
    // A stable sort: ties stay in the order of their indices.
    order.sort_by(|&a, &b| of(b).partial_cmp(&of(a)).expect("scores are numbers"));
    order
}

/// Indices `h · n + i` of `scores` `[Hkv, n]` in the mixed order: the oracle of
/// [`mixed_heads`](crate::ranking::mixed_heads).
pub fn mixed_order(scores: &[f32], kv_heads: usize, alpha_milli: u32) -> Vec<u32> {
    let n = scores.len() / kv_heads;
    let alpha = alpha_milli as usize;
    let of_head: Vec<Vec<u32>> = scores.chunks(n).map(order).collect();
    let mut counts = vec![0; kv_heads];
    let mut emitted = vec![0; kv_heads];
    let mut mixed = Vec::with_capacity(scores.len());
    for (step, index) in order(scores).into_iter().enumerate() {
        let x = step + 1;
        counts[index as usize / n] += 1;
        for head in 0..kv_heads {
            let earned = ((1000 - alpha) * counts[head] * kv_heads + alpha * x) / (1000 * kv_heads);
            while emitted[head] < earned {
                mixed.push((head * n) as u32 + of_head[head][emitted[head]]);
                emitted[head] += 1;
            }
        }
    }
    mixed
}

/// One position of a row `[n]`, pooled.
fn pooled(config: &Config, row: &[f64], position: usize) -> f64 {
    let reach = config.kernel / 2;
    let around = &row[position.saturating_sub(reach)..(position + reach + 1).min(row.len())];
    match config.pool {
        Pool::Max => {
            let peak = around.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row[position].max(peak * f64::from(config.shoulder_milli) / 1000.0)
        }
        Pool::Avg => around.iter().sum::<f64>() / config.kernel as f64,
        Pool::None => row[position],
    }
}

fn mean(xs: &[f64]) -> f64 {
    xs.iter().sum::<f64>() / xs.len() as f64
}

/// Unbiased, in two passes; zero for one number.
fn variance(xs: &[f64]) -> f64 {
    let mean = mean(xs);
    let squares: f64 = xs.iter().map(|x| (x - mean) * (x - mean)).sum();
    squares / (xs.len().max(2) - 1) as f64
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}
