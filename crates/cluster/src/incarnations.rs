//! How often each worker of this process has registered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The newest incarnation of each worker. Clones share the count, which lives as long as the registry, so
/// that a number is never given twice. There is one entry for each worker of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incarnations(Arc<Mutex<BTreeMap<String, u64>>>);

impl Incarnations {
    /// The number for another registration, from 1.
    pub(crate) fn next(&self, worker: &str) -> u64 {
        self.with(worker, |newest| {
            *newest += 1;
            *newest
        })
    }

    /// The number for a record that takes the place of `own`; none if somebody else has registered the
    /// worker since.
    pub(crate) fn next_after(&self, worker: &str, own: u64) -> Option<u64> {
        self.with(worker, |newest| {
            let is_own = *newest == own;
            *newest += u64::from(is_own);
            is_own.then_some(*newest)
        })
    }

    /// Whether nobody else has registered the worker since.
    pub(crate) fn is_newest(&self, worker: &str, own: u64) -> bool {
        self.with(worker, |newest| *newest == own)
    }

    fn with<T>(&self, worker: &str, act: impl FnOnce(&mut u64) -> T) -> T {
        // A count is whole at any moment, also where its holder panicked.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(counts.entry(worker.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_counts_for_itself_and_only_the_newest_goes_on() {
        let incarnations = Incarnations::default();
        assert_eq!(incarnations.next("a"), 1);
        assert_eq!(incarnations.next("b"), 1);
        assert_eq!(incarnations.next_after("a", 1), Some(2));
        assert_eq!(incarnations.next("a"), 3);
        assert_eq!(incarnations.next_after("a", 2), None);
        assert!(!incarnations.is_newest("a", 2));
        assert!(incarnations.is_newest("a", 3));
        assert!(incarnations.is_newest("b", 1));
    }
}
