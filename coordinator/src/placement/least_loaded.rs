//! The worker with the least load, the first of equals.

use super::policy::Candidate;

pub(crate) fn choose<'a>(candidates: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let least = candidates.iter().min_by_key(|candidate| candidate.load);
    least.copied()
}

#[cfg(test)]
mod tests {
    use super::super::policy::PolicyName;
    use super::super::policy::tests::check;

    #[test]
    fn the_least_load_wins_and_the_first_of_equals() {
        let policy = PolicyName::LeastLoaded;
        check(policy, &[(7, 0, 0), (5, 900, 900), (6, 0, 0)], "b");
        check(policy, &[(7, 0, 0), (5, 900, 900), (5, 0, 0)], "b");
    }
}
