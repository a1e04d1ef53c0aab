//! Two workers by chance, and the one of them with less load. Coordinators that share their view of the loads
//! all choose the same least loaded worker between two looks; by chance they spread.

use xxhash_rust::xxh3::xxh3_64;

use super::least_loaded;
use super::policy::{Candidate, Turn};

pub(crate) fn choose<'a>(candidates: &[Candidate<'a>], turn: Turn) -> Option<Candidate<'a>> {
    let count = candidates.len() as u64;
    let chance = xxh3_64(&turn.0.to_le_bytes());
    let first = chance.checked_rem(count)?;
    if count == 1 {
        return candidates.first().copied();
    }
    // Another one than the first.
    let second = (first + 1 + (chance >> 32) % (count - 1)) % count;
    least_loaded::choose(&[first, second].map(|index| candidates[index as usize]))
}

#[cfg(test)]
mod tests {
    use super::super::policy::PolicyName;
    use super::super::policy::tests::chosen;

    #[test]
    fn the_most_loaded_is_never_chosen_and_the_least_loaded_not_always() {
        let workers = [(4, 0, 0), (3, 0, 0), (2, 0, 0), (1, 0, 0)];
        let counts = chosen(PolicyName::PowerOfTwo, &workers, 6_000);
        // d wins each pair that it is in, which are half of them; c one third, b one sixth.
        let near = |name: &str, share: u64| {
            let count = counts.get(name).copied().unwrap_or_default();
            assert!(count.abs_diff(share) < 200, "{name}: {count} of 6000");
        };
        near("d", 3_000);
        near("c", 2_000);
        near("b", 1_000);
        assert_eq!(counts.get("a"), None);
    }
}
