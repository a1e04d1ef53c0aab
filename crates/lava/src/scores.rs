//! Scores: what the observation window saw of a layer, reduced to one number per entry.

use std::ops::AddAssign;

use crate::{Config, Gqa, Pool, ValueNorm};

/// What the window saw of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// `Hq`, a multiple of `Hkv`.
    pub query_heads: usize,
    /// `[Hq, n]`: causal attention over all `N` keys, averaged over the last `W` queries, without
    /// the window's own columns.
    pub mean_attention: &'a [f32],
    /// `[Hkv]`: largest L1 norm among the value rows of each KV head; see [`ValueNorm`].
    pub value_norms: &'a [f32],
}

/// The scores of one layer, `[Hkv, n]`: pool along the positions, times the value norm, then the
/// reduction over each group of query heads. The order matters for mixed pairs such as max-pool
/// with mean (`lava_scores` of `tests/data/reference.py`). Costs `O(Hq · n · kernel)`.
///
/// NaN in gives NaN out, which [`Cascade::push_layer`](crate::Cascade::push_layer) reports.
///
/// # Panics
/// If `mean_attention` is not `[Hq, n]`, `Hq` is not a positive multiple of `Hkv`, or the kernel is
/// even.
pub fn layer_scores(config: &Config, observation: &Observation<'_>) -> Vec<f32> {
    let &Observation {
        query_heads,
        mean_attention,
        value_norms,
    } = observation;
    let kv_heads = value_norms.len();
    assert!(kv_heads > 0 && query_heads > 0, "a layer has heads");
    assert_eq!(
        query_heads % kv_heads,
        0,
        "Hq {query_heads} is a multiple of Hkv {kv_heads}"
    );
    assert_eq!(
        mean_attention.len() % query_heads,
        0,
        "mean attention is [Hq {query_heads}, n]"
    );
    assert_eq!(config.kernel % 2, 1, "the kernel is odd");

    let group = query_heads / kv_heads;
    let n = mean_attention.len() / query_heads;
    let mut scores = vec![0.0; kv_heads * n];
    let mut row = vec![0.0; n];
    for (kv_head, &value_norm) in value_norms.iter().enumerate() {
        let out = &mut scores[kv_head * n..][..n];
        for query_head in kv_head * group..(kv_head + 1) * group {
            pool(config, &mean_attention[query_head * n..][..n], &mut row);
            if config.value_norm != ValueNorm::Off {
                row.iter_mut().for_each(|x| *x *= value_norm);
            }
            let first = query_head == kv_head * group;
            match config.gqa {
                _ if first => out.copy_from_slice(&row),
                Gqa::Max => apply(out, &row, raise),
                Gqa::Mean => apply(out, &row, f32::add_assign),
            }
        }
        if config.gqa == Gqa::Mean {
            out.iter_mut().for_each(|x| *x /= group as f32);
        }
    }
    scores
}

/// Pools `row` `[n]` into `out` `[n]`, stride 1. A sum is taken from left to right.
fn pool(config: &Config, row: &[f32], out: &mut [f32]) {
    let reach = (config.kernel / 2).min(row.len());
    match config.pool {
        Pool::None => out.copy_from_slice(row),
        Pool::Max => {
            out.copy_from_slice(row);
            for shift in 1..=reach {
                apply(out, &row[shift..], raise);
                apply(&mut out[shift..], row, raise);
            }
        }
        Pool::Avg => {
            out.fill(0.0);
            for shift in (1..=reach).rev() {
                apply(&mut out[shift..], row, f32::add_assign);
            }
            for shift in 0..=reach {
                apply(out, &row[shift..], f32::add_assign);
            }
            out.iter_mut().for_each(|x| *x /= config.kernel as f32);
        }
    }
}

/// `op(out[i], row[i])` for as many `i` as both have.
fn apply(out: &mut [f32], row: &[f32], op: impl Fn(&mut f32, f32)) {
    for (out, &x) in out.iter_mut().zip(row) {
        op(out, x);
    }
}

/// Maximum that keeps a NaN of either side, which `f32::max` would hide. It stores always, so that
/// it vectorises.
fn raise(out: &mut f32, x: f32) {
    *out = if x > *out || x.is_nan() { x } else { *out };
}
