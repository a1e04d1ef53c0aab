//! The specification: slow, readable `f64` forms of what the rest of the crate and the kernels
//! compute fast. For tests only; [`Layer::scores`] costs `O(Hq · W · N · D)` without any care for
//! the cache. `tests/data/reference.py` says the same in numpy.

use crate::{Config, Gqa, Pool, ValueNorm};

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

    /// `[Hq, n]`: causal softmax over all `N` keys, averaged over the last `window` queries,
    /// without the window's own columns. `window` is at most `N`.
    pub fn mean_attention(&self, window: usize) -> Vec<f64> {
        let tokens = self.tokens();
        let n = tokens - window;
        let mut mean = vec![0.0; self.query_heads * n];
        for query_head in 0..self.query_heads {
            let kv_head = query_head / (self.query_heads / self.kv_heads);
            for query in n..tokens {
                let q = self.row(self.queries, query_head, query);
                let logits: Vec<f64> = (0..=query)
                    .map(|key| {
                        dot(q, self.row(self.keys, kv_head, key)) / (self.head_dim as f64).sqrt()
                    })
                    .collect();
                let attention = softmax(&logits);
                for position in 0..n {
                    mean[query_head * n + position] += attention[position] / window as f64;
                }
            }
        }
        mean
    }

    /// `[Hkv]`: the largest L1 norm among the value rows that `config.value_norm` names; 1 if it is
    /// off.
    pub fn value_norms(&self, config: &Config) -> Vec<f64> {
        let positions = match config.value_norm {
            ValueNorm::NonWindow => self.tokens() - config.window,
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

    /// `[Hkv, n]`: the scores of the layer, from [`Layer::mean_attention`] and
    /// [`Layer::value_norms`].
    pub fn scores(&self, config: &Config) -> Vec<f64> {
        scores(
            config,
            self.query_heads,
            &self.mean_attention(config.window),
            &self.value_norms(config),
        )
    }

    /// Row `[D]` of a `[heads, N, D]` tensor.
    fn row<'t>(&self, tensor: &'t [f32], head: usize, position: usize) -> &'t [f32] {
        &tensor[(head * self.tokens() + position) * self.head_dim..][..self.head_dim]
    }
}

/// `[Hkv, n]` from `mean_attention` `[Hq, n]` and `value_norms` `[Hkv]`: the oracle of
/// [`scores::layer_scores`](crate::scores::layer_scores).
pub fn scores(
    config: &Config,
    query_heads: usize,
    mean_attention: &[f64],
    value_norms: &[f64],
) -> Vec<f64> {
    let kv_heads = value_norms.len();
    let n = mean_attention.len() / query_heads;
    let group = query_heads / kv_heads;
    let mut scores = Vec::with_capacity(kv_heads * n);
    for kv_head in 0..kv_heads {
        for position in 0..n {
            let of_group = (0..group).map(|g| {
                let row = &mean_attention[(kv_head * group + g) * n..][..n];
                pooled(config, row, position) * value_norms[kv_head]
            });
            scores.push(match config.gqa {
                Gqa::Max => of_group.fold(f64::NEG_INFINITY, f64::max),
                Gqa::Mean => of_group.sum::<f64>() / group as f64,
            });
        }
    }
    scores
}

/// Indices of `scores` in the strict order: the oracle of [`ranking::best`](crate::ranking::best).
pub fn order(scores: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let of = |index: u32| scores[index as usize];
    // A stable sort: ties stay in the order of their indices.
    order.sort_by(|&a, &b| of(b).partial_cmp(&of(a)).expect("scores are numbers"));
    order
}

/// Indices `h · n + i` of `scores` `[Hkv, n]` in the mixed order: the oracle of
/// [`ranking::mixed_heads`](crate::ranking::mixed_heads).
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
        Pool::Max => around.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Pool::Avg => around.iter().sum::<f64>() / config.kernel as f64,
        Pool::None => row[position],
    }
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
