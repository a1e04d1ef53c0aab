//! The worker that has to compute least: what is missing of the prompt, and a share of what waits there.
//!
//! A token that is computed again costs a worker's time, which all requests share; a token that waits before
//! this one costs only this request's time. So those count less, or a prompt would be computed again
//! elsewhere whenever the worker that has it is busy for a moment. What a worker was given lately counts a
//! little, so that work spreads among those that are idle, and long fronts that many prompts share come to be
//! kept by several workers.

use super::policy::Candidate;

/// A token that waits there, in sixteenths of one that is computed, and one that was given lately. Found by
/// replaying a trace of conversations (docs/performance.md); half and twice as much change little.
const QUEUED: u64 = 4;
const RECENT: u64 = 1;

pub(crate) fn choose<'a>(candidates: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let cost = |candidate: &&Candidate<'a>| {
        let computed = candidate.missing_tokens.saturating_mul(16);
        let queued = candidate.load.amount.saturating_mul(QUEUED);
        let recent = candidate.recent_tokens.saturating_mul(RECENT);
        let cost = computed.saturating_add(queued).saturating_add(recent);
        (cost, candidate.load)
    };
    candidates.iter().min_by_key(cost).copied()
}

#[cfg(test)]
mod tests {
    use super::super::policy::PolicyName;
    use super::super::policy::tests::check;

    const POLICY: PolicyName = PolicyName::PrefixAware;

    #[test]
    fn the_one_that_has_the_prompt_computes_it_unless_its_queue_is_long() {
        check(POLICY, &[(0, 8_192, 0), (2_048, 512, 0)], "b");
        check(POLICY, &[(0, 8_192, 0), (40_960, 512, 0)], "a");
    }

    #[test]
    fn among_idle_ones_it_is_the_one_that_did_least_lately() {
        check(
            POLICY,
            &[(0, 512, 9_000), (0, 512, 8_000), (0, 512, 8_500)],
            "b",
        );
        check(POLICY, &[(0, 512, 9_000), (0, 1_024, 100)], "b");
    }
}
