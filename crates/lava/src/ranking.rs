//! Rankings: which entries of a layer, or of one head, come first.
//!
//! The strict order is score descending, then KV head ascending, then position ascending. Ties are
//! the normal case: a max-pool of kernel 7 gives up to seven equal scores around every peak. Scores
//! are finite and not negative.

/// Indices of the `count` best of `scores`, best first; equal scores in the order of their indices.
/// Costs `O(len + count · log count)`; `count` may exceed `len`.
///
/// # Panics
/// If `scores` has more than 2^32 elements.
pub fn best(scores: &[f32], count: usize) -> Vec<u32> {
    assert!(scores.len() <= 1 << 32, "indices have 32 bits");
    let mut keys: Vec<u64> = scores
        .iter()
        .enumerate()
        .map(|(index, &s)| key(s, index))
        .collect();
    if count < keys.len() {
        keys.select_nth_unstable(count);
        keys.truncate(count);
    }
    keys.sort_unstable();
    keys.into_iter().map(|key| key as u32).collect()
}

/// Orders as (score descending, index ascending): the bits of non-negative floats order as the
/// floats do.
fn key(score: f32, index: usize) -> u64 {
    let score = score + 0.0; // -0.0 becomes 0.0
    u64::from(!score.to_bits()) << 32 | index as u64
}

/// The KV head of each of the `count` best entries of a layer, best first. `scores` `[Hkv, n]`,
/// `Hkv` at most 2^16.
pub fn best_heads(scores: &[f32], kv_heads: usize, count: usize) -> Vec<u16> {
    let n = (scores.len() / kv_heads) as u32;
    best(scores, count)
        .into_iter()
        .map(|index| (index / n) as u16)
        .collect()
}

/// The KV heads of the first `cut` entries in the mixed order of a layer, whose every prefix
/// honours the head floor: with `c_h(x)` the entries of head `h` among the `x` best of the layer,
/// the first `x` entries of the mixed order hold the best entries of head `h`, and fewer than `Hkv`
/// more or less than
///
/// ```text
/// (1 - alpha) · c_h(x) + alpha · x / Hkv
/// ```
///
/// `alpha` = 0 gives [`best_heads`]. Walks the layer's ranking: each step earns every head
/// `alpha / Hkv` and the head of that step `1 - alpha` more, and a head emits an entry once it has
/// earned it (`mixed_order` of `tests/data/reference.py`). After `x` steps more than `x - Hkv`
/// entries are out, so `cut + Hkv` steps suffice.
pub fn mixed_heads(scores: &[f32], kv_heads: usize, alpha_milli: u32, cut: usize) -> Vec<u16> {
    let walk = best_heads(scores, kv_heads, cut.saturating_add(kv_heads));
    let even = u64::from(alpha_milli);
    let own = (1000 - even) * kv_heads as u64;
    let whole = 1000 * kv_heads as u64;

    let mut earned = vec![0u64; kv_heads];
    let mut heads = Vec::with_capacity(walk.len());
    for walked in walk {
        earned[usize::from(walked)] += own;
        for (head, earned) in earned.iter_mut().enumerate() {
            *earned += even;
            while *earned >= whole {
                *earned -= whole;
                heads.push(head as u16);
            }
        }
    }
    heads.truncate(cut);
    heads
}

/// For each head its `counts[h]` best positions, best first. `scores` `[Hkv, n]`, `counts` `[Hkv]`.
pub fn best_positions(scores: &[f32], counts: &[usize]) -> Vec<Vec<u32>> {
    let n = scores.len() / counts.len();
    counts
        .iter()
        .enumerate()
        .map(|(head, &count)| best(&scores[head * n..][..n], count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_rank_by_index_and_minus_zero_is_zero() {
        assert_eq!(best(&[0.5, -0.0, 2.0, 0.0, 2.0], 9), [2, 4, 0, 1, 3]);
        assert_eq!(best(&[0.5, -0.0, 2.0, 0.0, 2.0], 3), [2, 4, 0]);
        assert_eq!(best(&[], 3), [0u32; 0]);
    }

    #[test]
    fn a_head_without_good_entries_still_emits_its_floor() {
        let scores = [9.0, 8.0, 7.0, 6.0, 5.0, 0.5, 0.4, 0.3, 0.2, 0.1];
        assert_eq!(best_heads(&scores, 2, 5), [0, 0, 0, 0, 0]);
        assert_eq!(mixed_heads(&scores, 2, 0, 5), [0, 0, 0, 0, 0]);
        assert_eq!(mixed_heads(&scores, 2, 400, 5), [0, 0, 0, 0, 1]);
        assert_eq!(mixed_heads(&scores, 2, 1000, 6), [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn positions_come_per_head_in_rank_order() {
        let scores = [0.1, 0.3, 0.2, 0.6, 0.6, 0.9];
        assert_eq!(
            best_positions(&scores, &[2, 3]),
            [vec![1, 2], vec![2, 0, 1]]
        );
    }
}
