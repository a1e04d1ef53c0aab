//! How one of several workers is chosen that could all take a request.

use serde::Deserialize;

use super::{least_loaded, power_of_two, prefix_aware, round_robin};
use crate::snapshot::WorkerId;

/// A rule of choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// One after another.
    RoundRobin,
    /// The one with the least load.
    LeastLoaded,
    /// The one with less load of two that chance picks.
    PowerOfTwo,
    /// The one that has to compute least for it, those that wait there and what it did lately counted. For
    /// decode workers, which keep no prompts, the same as `LeastLoaded`.
    #[default]
    PrefixAware,
}

/// A worker with room for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    pub(crate) id: &'a WorkerId,
    pub(crate) load: Load,
    /// Tokens of the prompt that it would have to compute.
    pub(crate) missing_tokens: u64,
    /// Prompt tokens that it was given lately, those of long ago counted less.
    pub(crate) recent_tokens: u64,
}

/// How busy a candidate is; the lesser is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Load {
    /// Of a prefill worker: tokens to compute before the request's turn. Of a decode worker: pages that are
    /// missing from `u64::MAX` free ones.
    pub(crate) amount: u64,
    /// Requests that wait or run.
    pub(crate) requests: u64,
}

/// What rules may use beside the candidates, so that the same inputs give the same choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn(pub(crate) u64);

impl PolicyName {
    /// One of the candidates, which are in the order of their ids.
    pub(crate) fn choose<'a>(
        self,
        candidates: &[Candidate<'a>],
        turn: Turn,
    ) -> Option<Candidate<'a>> {
        match self {
            PolicyName::RoundRobin => round_robin::choose(candidates, turn),
            PolicyName::LeastLoaded => least_loaded::choose(candidates),
            PolicyName::PowerOfTwo => power_of_two::choose(candidates, turn),
            PolicyName::PrefixAware => prefix_aware::choose(candidates),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::samples::id;

    /// Candidates a, b, c and so on, by load, missing and recent tokens; chosen at so many turns in a row.
    pub(crate) fn chosen(
        policy: PolicyName,
        workers: &[(u64, u64, u64)],
        turns: u64,
    ) -> BTreeMap<String, u64> {
        let ids: Vec<WorkerId> = ('a'..='z')
            .take(workers.len())
            .map(|name| id(&name.to_string()))
            .collect();
        let candidates: Vec<Candidate<'_>> = workers
            .iter()
            .zip(&ids)
            .map(|(&(amount, missing_tokens, recent_tokens), id)| Candidate {
                id,
                load: Load {
                    amount,
                    requests: 0,
                },
                missing_tokens,
                recent_tokens,
            })
            .collect();
        let mut counts = BTreeMap::new();
        for turn in 0..turns {
            let chosen = policy.choose(&candidates, Turn(turn)).unwrap();
            *counts.entry(chosen.id.to_string()).or_default() += 1;
        }
        counts
    }

    #[track_caller]
    pub(crate) fn check(policy: PolicyName, workers: &[(u64, u64, u64)], expected: &str) {
        let chosen = chosen(policy, workers, 1);
        assert_eq!(chosen.into_keys().next().as_deref(), Some(expected));
    }

    #[test]
    fn of_nobody_nobody_is_chosen() {
        for policy in [
            PolicyName::RoundRobin,
            PolicyName::LeastLoaded,
            PolicyName::PowerOfTwo,
            PolicyName::PrefixAware,
        ] {
            assert_eq!(policy.choose(&[], Turn(3)), None);
            check(policy, &[(9, 9, 9)], "a");
        }
    }
}
