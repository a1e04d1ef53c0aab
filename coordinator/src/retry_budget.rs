//! How many retries the answers of a process may make together: a cluster that is going down must not be
//! pulled down by them.

use std::sync::{Arc, Mutex, PoisonError};

/// A hundredth of a retry.
const RETRY: u64 = 100;

/// Retries in store. Every request that is taken in adds a share of one, every retry takes one. Clones
/// share it.
#[derive(Debug, Clone)]
pub(crate) struct RetryBudget {
    percent: u64,
    most: u64,
    /// Hundredths.
    left: Arc<Mutex<u64>>,
}

impl RetryBudget {
    /// A full store of `retries_max`, to which every request adds `percent` hundredths.
    pub(crate) fn new(percent: u32, retries_max: u32) -> RetryBudget {
        let most = u64::from(retries_max) * RETRY;
        RetryBudget {
            percent: percent.into(),
            most,
            left: Arc::new(Mutex::new(most)),
        }
    }

    /// A request was taken in.
    pub(crate) fn deposit(&self) {
        self.change(|left| Some((left + self.percent).min(self.most)));
    }

    /// Takes a retry out of the store; false if it is empty.
    pub(crate) fn withdraw(&self) -> bool {
        self.change(|left| left.checked_sub(RETRY))
    }

    fn change(&self, change: impl FnOnce(u64) -> Option<u64>) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(*left);
        *left = changed.unwrap_or(*left);
        changed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_denies_until_enough_requests_have_come() {
        let budget = RetryBudget::new(40, 2);
        assert!(budget.withdraw() && budget.clone().withdraw());
        assert!(!budget.withdraw());
        budget.deposit();
        budget.deposit();
        assert!(!budget.withdraw());
        budget.deposit();
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }

    #[test]
    fn the_store_never_holds_more_than_its_most() {
        let budget = RetryBudget::new(100, 1);
        for _ in 0..10 {
            budget.deposit();
        }
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }
}
