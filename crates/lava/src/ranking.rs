//! Rankings: which entries of a layer, or of one head, come first.
//!
//! The strict order is score descending, then KV head ascending, then position ascending. Ties are
//! the normal case: a max-pool of kernel 7 gives up to seven equal scores around every peak. Scores
//! are finite and not negative.

/// The scores of one layer as its ranking sees them.
#[derive(Debug, Clone, Copy)]
pub struct Entries<'a> {
    /// `[Hkv, n]`.
    pub scores: &'a [f32],
    /// `Hkv`, from 1 to 2^16.
    pub kv_heads: usize,
    /// The first positions of every head, which come before all others; among themselves they are in
    /// the strict order.
    pub sinks: usize,
}

impl Entries<'_> {
    /// Indices `h · n + i` of the `count` best of the layer, best first. Costs
    /// `O(len + count · log count)`; `count` may exceed the number of entries.
    ///
    /// # Panics
    /// If there are more than 2^32 entries.
    pub fn best(&self, count: usize) -> Vec<u32> {
        best(self.scores, self.positions(), self.sinks, count)
    }

    /// The KV head of each of the `count` best entries of the layer, best first.
    pub fn best_heads(&self, count: usize) -> Vec<u16> {
        let n = self.positions() as u32;
        let best = self.best(count).into_iter();
        best.map(|index| (index / n) as u16).collect()
    }

    /// For each head its `counts[h]` best positions, best first. `counts` `[Hkv]`.
    pub fn best_positions(&self, counts: &[usize]) -> Vec<Vec<u32>> {
        let n = self.positions();
        let of_head = counts.iter().enumerate();
        of_head
            .map(|(head, &count)| best(&self.scores[head * n..][..n], n, self.sinks, count))
            .collect()
    }

    /// `n`.
    fn positions(&self) -> usize {
        self.scores.len() / self.kv_heads
    }
}

/// The KV heads of the first `cut` entries in the mixed order of a layer, whose every prefix honours the
/// head floor: with `c_h(x)` the entries of head `h` among the `x` best of the layer, the first `x` entries
/// of the mixed order hold the best entries of head `h`, and fewer than `Hkv` more or less than
///
/// ```text
/// (1 - alpha) · c_h(x) + alpha · x / Hkv
/// ```
///
/// `walk` are the heads of the best entries, best first: `cut + Hkv` of them, or all. `alpha` = 0 gives the
/// walk itself. Each step earns every head `alpha / Hkv` and the head of that step `1 - alpha` more, and a
/// head emits an entry once it has earned it (`mixed_order` of `tests/data/reference.py`). After `x` steps
/// more than `x - Hkv` entries are out, so `cut + Hkv` steps suffice.
pub fn mixed_heads(walk: &[u16], kv_heads: usize, alpha_milli: u32, cut: usize) -> Vec<u16> {
    let even = u64::from(alpha_milli);
    let own = (1000 - even) * kv_heads as u64;
    let whole = 1000 * kv_heads as u64;

    let mut earned = vec![0u64; kv_heads];
    let mut heads = Vec::with_capacity(walk.len());
    for &walked in &walk[..walk.len().min(cut.saturating_add(kv_heads))] {
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

/// Indices of the `count` best of `scores` `[heads, n]`.
fn best(scores: &[f32], n: usize, sinks: usize, count: usize) -> Vec<u32> {
    assert!(scores.len() <= 1 << 32, "indices have 32 bits");
    let mut keys: Vec<u64> = scores
        .iter()
        .enumerate()
        .map(|(index, &s)| key(s, index))
        .collect();
    for head in keys.chunks_mut(n.max(1)) {
        head.iter_mut()
            .take(sinks)
            .for_each(|key| *key &= !NOT_SINK);
    }
    if count < keys.len() {
        keys.select_nth_unstable(count);
        keys.truncate(count);
    }
    keys.sort_unstable();
    keys.into_iter().map(|key| key as u32).collect()
}

/// Set in every key that [`key`] gives: scores have no sign.
const NOT_SINK: u64 = 1 << 63;

/// Orders as (score descending, index ascending): the bits of non-negative floats order as the
/// floats do.
fn key(score: f32, index: usize) -> u64 {
    let score = score + 0.0; // -0.0 becomes 0.0
    u64::from(!score.to_bits()) << 32 | index as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(scores: &[f32], kv_heads: usize) -> Entries<'_> {
        Entries {
            scores,
            kv_heads,
            sinks: 0,
        }
    }

    #[test]
    fn equal_scores_rank_by_index_and_minus_zero_is_zero() {
        let scores = [0.5, -0.0, 2.0, 0.0, 2.0];
        assert_eq!(entries(&scores, 1).best(9), [2, 4, 0, 1, 3]);
        assert_eq!(entries(&scores, 1).best(3), [2, 4, 0]);
        assert_eq!(entries(&[], 1).best(3), [0u32; 0]);
    }

    #[test]
    fn a_head_without_good_entries_still_emits_its_floor() {
        let scores = [9.0, 8.0, 7.0, 6.0, 5.0, 0.5, 0.4, 0.3, 0.2, 0.1];
        let entries = entries(&scores, 2);
        assert_eq!(entries.best_heads(5), [0, 0, 0, 0, 0]);
        let mixed = |alpha_milli, cut| mixed_heads(&entries.best_heads(10), 2, alpha_milli, cut);
        assert_eq!(mixed(0, 5), [0, 0, 0, 0, 0]);
        assert_eq!(mixed(400, 5), [0, 0, 0, 0, 1]);
        assert_eq!(mixed(1000, 6), [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn positions_come_per_head_in_rank_order() {
        let scores = [0.1, 0.3, 0.2, 0.6, 0.6, 0.9];
        assert_eq!(
            entries(&scores, 2).best_positions(&[2, 3]),
            [vec![1, 2], vec![2, 0, 1]]
        );
    }

    #[test]
    fn sinks_come_first_in_every_head_whatever_their_scores() {
        let scores = [0.1, 0.3, 9.0, 0.6, 0.2, 0.6, f32::MAX, 0.0];
        let entries = Entries {
            sinks: 2,
            ..entries(&scores, 2)
        };
        assert_eq!(entries.best(6), [5, 1, 4, 0, 6, 2]);
        assert_eq!(entries.best_positions(&[3, 1]), [vec![1, 0, 2], vec![1]]);
        let all = Entries {
            sinks: 100,
            ..entries
        };
        assert_eq!(
            all.best(8),
            Entries {
                sinks: 0,
                ..entries
            }
            .best(8)
        );
    }
}
