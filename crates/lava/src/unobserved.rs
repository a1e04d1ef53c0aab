//! Scores of the policies that look at no attention.

use crate::recipe::ScoreRule;

/// Of [`Policy::Random`](crate::Policy::Random): the same prompt keeps the same entries everywhere.
const SEED: u64 = 0x6C61_7661;

/// `[Hkv, n]` scores of a layer, for the rules that need no observation; none for the others.
pub(crate) fn scores(rule: ScoreRule, layer: usize, kv_heads: usize, n: usize) -> Option<Vec<f32>> {
    match rule {
        ScoreRule::Position => Some(vec![0.0; kv_heads * n]),
        ScoreRule::Random => {
            let of_head = |head| (0..n).map(move |position| drawn(layer, head, position));
            Some((0..kv_heads).flat_map(of_head).collect())
        }
        _ => None,
    }
}

/// A hash of the entry as a number of `[0, 1)` with 24 bits, so that it is exact in `f32`.
fn drawn(layer: usize, head: usize, position: usize) -> f32 {
    let hash = [layer, head, position]
        .into_iter()
        .fold(SEED, |hash, part| mix(hash ^ part as u64));
    (hash >> 40) as f32 / (1u32 << 24) as f32
}

/// One step of SplitMix64 from a given state (Steele, Lea and Flood, OOPSLA 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_scores_differ_by_layer_head_and_position_and_are_spread() {
        let layer = |layer| scores(ScoreRule::Random, layer, 4, 1000).unwrap();
        let (first, second) = (layer(0), layer(1));
        assert_ne!(first, second);
        assert_ne!(first[..1000], first[1000..2000]);
        assert_eq!(first, layer(0));
        let mean: f32 = first.iter().sum::<f32>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
