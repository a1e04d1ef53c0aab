//! Scores: what was observed of a layer, reduced to one number per entry.

mod observation;

mod pool;

use std::ops::{AddAssign, Range};

use crate::recipe::ScoreRule;
use crate::{Config, Gqa, Method, Score, ValueNorm};
use pool::{apply, pool, raise};

pub use observation::Observation;

/// What a layer's entries are worth, and what the layer is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerScores {
    /// `[Hkv, n]`: larger is kept longer. Empty if the method observes nothing.
    pub scores: Vec<f32>,
    /// CAKE's preference `P_l`, which layers share the budget by; 0 for the other policies.
    pub preference: f64,
}

impl From<Vec<f32>> for LayerScores {
    /// Scores `[Hkv, n]` of a layer whose preference does not count.
    fn from(scores: Vec<f32>) -> LayerScores {
        LayerScores {
            scores,
            preference: 0.0,
        }
    }
}

/// The scores of one layer. Costs `O(Hq · n · kernel)`.
///
/// The order of pool and group matters for mixed pairs such as max-pool with mean. LAVa and CAKE pool
/// and then reduce, the other baselines reduce and then pool (`lava_scores`, `snap_scores` and `cake` of
/// `tests/data/reference.py`). NaN in gives NaN out, which
/// [`Cascade::push_layer`](crate::Cascade::push_layer) reports.
///
/// # Panics
/// If a field that [`Method::observes`] names has another length than it should, `Hq` is not a positive
/// multiple of `Hkv`, or the kernel is even.
pub fn layer_scores(method: &Method, observation: &Observation<'_>) -> LayerScores {
    let config = &method.config;
    assert_eq!(config.kernel % 2, 1, "the kernel is odd");
    observation.check(method.observes());
    let Some(recipe) = method.policy.recipe() else {
        return LayerScores::default();
    };
    let scores = match recipe.score {
        ScoreRule::Configured => configured(config, observation),
        ScoreRule::Snap => {
            let mut scores = group_means(observation);
            let mut row = vec![0.0; observation.positions()];
            for out in scores.chunks_mut(row.len().max(1)) {
                row.copy_from_slice(out);
                pool(config, &row, out);
            }
            scores
        }
        ScoreRule::Cake => {
            let gamma = f64::from(config.gamma_milli) / 1000.0;
            let shifted = |query_head: usize, out: &mut [f32]| {
                let mean = observation.row(observation.mean, query_head);
                let variance = observation.row(observation.variance, query_head);
                for ((out, &mean), &variance) in out.iter_mut().zip(mean).zip(variance) {
                    *out = (f64::from(mean) + gamma * f64::from(variance)) as f32;
                }
            };
            return LayerScores {
                scores: pooled_groups(config, observation, Gqa::Mean, &shifted, Scale::None),
                preference: preference(config, observation),
            };
        }
        ScoreRule::AllQueries => group_means(observation),
        ScoreRule::LastQuery => {
            means(observation, 0..observation.query_heads).repeat(observation.kv_heads)
        }
        // The cascade makes them.
        ScoreRule::Position | ScoreRule::Random => Vec::new(),
    };
    scores.into()
}

/// What the pooled row of a query head is multiplied by.
#[derive(Clone, Copy)]
enum Scale<'a> {
    None,
    /// `[Hkv]`.
    Head(&'a [f32]),
    /// `[Hkv, n]`.
    Entry(&'a [f32]),
}

/// The five scores of LAVa's allocation.
fn configured(config: &Config, observation: &Observation<'_>) -> Vec<f32> {
    let norms = match config.value_norm {
        ValueNorm::Off => Scale::None,
        ValueNorm::All | ValueNorm::NonWindow => Scale::Head(observation.value_norms),
    };
    let outputs = Scale::Entry(observation.value_outputs);
    let mean = |query_head: usize, out: &mut [f32]| {
        out.copy_from_slice(observation.row(observation.mean, query_head));
    };
    match config.score {
        Score::Lava => pooled_groups(config, observation, config.gqa, &mean, norms),
        Score::ValueOutput => pooled_groups(config, observation, config.gqa, &mean, outputs),
        Score::RmsValueOutput => {
            // The mean square: no term is negative, so nothing cancels. In f64, because squares of
            // small attention leave the range of f32.
            let biased = (observation.rows as f64 - 1.0) / observation.rows as f64;
            let rms = |query_head: usize, out: &mut [f32]| {
                let mean = observation.row(observation.mean, query_head);
                let variance = observation.row(observation.variance, query_head);
                for ((out, &mean), &variance) in out.iter_mut().zip(mean).zip(variance) {
                    let square = f64::from(mean).powi(2) + f64::from(variance) * biased;
                    *out = square.sqrt() as f32;
                }
            };
            pooled_groups(config, observation, config.gqa, &rms, outputs)
        }
        Score::MaxClamp => max_clamp(config, observation, norms),
        Score::MaxClampValueOutput => max_clamp(config, observation, outputs),
    }
}

/// Maximum over rows, pool and group; no entry below the mean of its head; then scaled.
fn max_clamp(config: &Config, observation: &Observation<'_>, scale: Scale<'_>) -> Vec<f32> {
    let max = |query_head: usize, out: &mut [f32]| {
        out.copy_from_slice(observation.row(observation.max, query_head));
    };
    let mut scores = pooled_groups(config, observation, Gqa::Max, &max, Scale::None);
    let n = observation.positions().max(1);
    for (kv_head, row) in scores.chunks_mut(n).enumerate() {
        let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
        let mean = (sum / row.len() as f64) as f32;
        row.iter_mut().for_each(|x| raise(x, mean));
        rescale(row, kv_head, scale);
    }
    scores
}

/// `[Hkv, n]`: what `fill` says of each query head, pooled, scaled, and reduced over the group.
fn pooled_groups(
    config: &Config,
    observation: &Observation<'_>,
    gqa: Gqa,
    fill: &dyn Fn(usize, &mut [f32]),
    scale: Scale<'_>,
) -> Vec<f32> {
    let n = observation.positions();
    let group = observation.group();
    let mut scores = vec![0.0; observation.kv_heads * n];
    let mut raw = vec![0.0; n];
    let mut row = vec![0.0; n];
    for kv_head in 0..observation.kv_heads {
        let out = &mut scores[kv_head * n..][..n];
        for query_head in kv_head * group..(kv_head + 1) * group {
            fill(query_head, &mut raw);
            pool(config, &raw, &mut row);
            rescale(&mut row, kv_head, scale);
            let first = query_head == kv_head * group;
            match gqa {
                _ if first => out.copy_from_slice(&row),
                Gqa::Max => apply(out, &row, raise),
                Gqa::Mean => apply(out, &row, f32::add_assign),
            }
        }
        if gqa == Gqa::Mean {
            out.iter_mut().for_each(|x| *x /= group as f32);
        }
    }
    scores
}

/// Multiplies one row `[n]` of a KV head.
fn rescale(row: &mut [f32], kv_head: usize, scale: Scale<'_>) {
    match scale {
        Scale::None => (),
        Scale::Head(norms) => row.iter_mut().for_each(|x| *x *= norms[kv_head]),
        Scale::Entry(norms) => {
            let norms = &norms[kv_head * row.len()..][..row.len()];
            apply(row, norms, |x, norm| *x *= norm);
        }
    }
}

/// `[Hkv, n]`: the observed mean, averaged over each group.
fn group_means(observation: &Observation<'_>) -> Vec<f32> {
    let group = observation.group();
    (0..observation.kv_heads)
        .flat_map(|kv_head| means(observation, kv_head * group..(kv_head + 1) * group))
        .collect()
}

/// `[n]`: the observed mean, averaged over some query heads.
fn means(observation: &Observation<'_>, query_heads: Range<usize>) -> Vec<f32> {
    let count = query_heads.len() as f32;
    let mut out = vec![0.0; observation.positions()];
    for query_head in query_heads {
        apply(
            &mut out,
            observation.row(observation.mean, query_head),
            f32::add_assign,
        );
    }
    out.iter_mut().for_each(|x| *x /= count);
    out
}

/// CAKE's `P_l = entropy^(1/tau_1) · variance^(1/tau_2)`, with the variance summed over heads and
/// positions. An entropy that rounding made negative counts as zero.
fn preference(config: &Config, observation: &Observation<'_>) -> f64 {
    let variance: f64 = observation.variance.iter().map(|&x| f64::from(x)).sum();
    let power = |x: f64, tau_milli: u32| x.powf(1.0 / (f64::from(tau_milli) / 1000.0));
    let entropy = if observation.entropy < 0.0 {
        0.0
    } else {
        observation.entropy
    };
    power(entropy, config.tau1_milli) * power(variance, config.tau2_milli)
}
