//! One worker after another, whatever they have to do.

use super::policy::{Candidate, Turn};

pub(crate) fn choose<'a>(candidates: &[Candidate<'a>], turn: Turn) -> Option<Candidate<'a>> {
    let count = candidates.len() as u64;
    let index = turn.0.checked_rem(count)?;
    candidates.get(index as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::super::policy::PolicyName;
    use super::super::policy::tests::chosen;

    #[test]
    fn all_get_the_same_number() {
        let counts = chosen(
            PolicyName::RoundRobin,
            &[(0, 0, 0), (900, 9, 9), (5, 5, 5)],
            30,
        );
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    }
}
