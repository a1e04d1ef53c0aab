//! Longest common subsequences.

/// Tokens of one side that are looked at, so that work is at most 16.8 million steps for two
/// texts of any length. The longest published references are about half as long.
pub(super) const TOKENS_MAX: usize = 4096;

/// Which step to take where both neighbours are equally good. The packages that define our
/// metrics differ here, and it decides which of several longest subsequences is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tie {
    /// Drop a token of the candidate.
    Candidate,
    /// Drop a token of the reference.
    Reference,
}

/// The length of the longest common subsequence of what [`TOKENS_MAX`] leaves of both.
pub(super) fn length<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let (a, b) = (bounded(a), bounded(b));
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Positions in `reference` of one longest common subsequence, ascending.
pub(super) fn positions<T: PartialEq>(reference: &[T], candidate: &[T], tie: Tie) -> Vec<usize> {
    let (reference, candidate) = (bounded(reference), bounded(candidate));
    let width = candidate.len() + 1;
    // One byte of the way back per cell: 16 MiB at most, where lengths would take 32.
    let mut steps = vec![Step::Match; (reference.len() + 1) * width];
    let mut above = vec![0_u16; width];
    let mut row = vec![0_u16; width];
    for (i, x) in reference.iter().enumerate() {
        for (j, y) in candidate.iter().enumerate() {
            let (step, length) = if x == y {
                (Step::Match, above[j] + 1)
            } else {
                let (without_reference, without_candidate) = (above[j + 1], row[j]);
                let drop_reference = match tie {
                    Tie::Candidate => without_reference > without_candidate,
                    Tie::Reference => without_reference >= without_candidate,
                };
                if drop_reference {
                    (Step::DropReference, without_reference)
                } else {
                    (Step::DropCandidate, without_candidate)
                }
            };
            steps[(i + 1) * width + j + 1] = step;
            row[j + 1] = length;
        }
        std::mem::swap(&mut above, &mut row);
    }
    let (mut i, mut j) = (reference.len(), candidate.len());
    let mut found = Vec::new();
    while i > 0 && j > 0 {
        match steps[i * width + j] {
            Step::Match => {
                (i, j) = (i - 1, j - 1);
                found.push(i);
            }
            Step::DropReference => i -= 1,
            Step::DropCandidate => j -= 1,
        }
    }
    found.reverse();
    found
}

#[derive(Clone, Copy)]
enum Step {
    Match,
    DropReference,
    DropCandidate,
}

pub(super) fn bounded<T>(tokens: &[T]) -> &[T] {
    &tokens[..tokens.len().min(TOKENS_MAX)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, in exponential time.
    fn slow(a: &[u8], b: &[u8]) -> usize {
        let ([x, a_rest @ ..], [y, b_rest @ ..]) = (a, b) else {
            return 0;
        };
        if x == y {
            return 1 + slow(a_rest, b_rest);
        }
        slow(a_rest, b).max(slow(a, b_rest))
    }

    proptest! {
        #[test]
        fn length_and_positions_follow_the_definition(
            a in proptest::collection::vec(0_u8..3, 0..9),
            b in proptest::collection::vec(0_u8..3, 0..9),
        ) {
            prop_assert_eq!(length(&a, &b), slow(&a, &b));
            for tie in [Tie::Candidate, Tie::Reference] {
                let at = positions(&a, &b, tie);
                prop_assert_eq!(at.len(), slow(&a, &b));
                prop_assert!(at.windows(2).all(|pair| pair[0] < pair[1]));
                let taken: Vec<u8> = at.iter().map(|&i| a[i]).collect();
                prop_assert_eq!(length(&taken, &b), taken.len());
            }
        }
    }
}
