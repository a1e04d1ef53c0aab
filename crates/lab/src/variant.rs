//! What is compared: policies at budgets.

use std::collections::BTreeSet;

use lava::{Method, ParseMethodError, Policy};
use thiserror::Error;

use crate::results::Key;

/// One policy at one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The policy with its settings.
    pub method: Method,
    /// Entries per KV head and layer, the window included; none where nothing is evicted.
    pub budget: Option<usize>,
}

/// Why policies and budgets make no variants.
#[derive(Debug, Error)]
pub enum Error {
    /// A policy or one of its settings is wrong.
    #[error(transparent)]
    Method(#[from] ParseMethodError),
    /// A budget is too small for a policy.
    #[error("{method}: {source}")]
    Budget {
        /// Which policy.
        method: Method,
        /// The least that works.
        source: lava::Error,
    },
    /// Nothing is left.
    #[error("give a policy and, unless it is full, a budget")]
    Nothing,
}

impl Variant {
    /// Nothing is evicted: what all others are compared with.
    pub fn full() -> Self {
        Self {
            method: Method::new(Policy::Full),
            budget: None,
        }
    }

    /// Every policy at every budget; `all` stands for every policy with its default settings.
    ///
    /// # Errors
    /// A policy is unknown, or a budget too small for one.
    pub fn all(policies: &[String], budgets: &[usize]) -> Result<Vec<Variant>, Error> {
        let mut methods = Vec::new();
        for name in policies {
            match name.as_str() {
                "all" => methods.extend(Policy::ALL.map(Method::new)),
                name => methods.push(name.parse()?),
            }
        }
        let mut seen = BTreeSet::new();
        let mut variants = Vec::new();
        for method in methods {
            if !seen.insert(method.to_string()) {
                continue;
            }
            if method.policy == Policy::Full {
                variants.push(Variant::full());
                continue;
            }
            for &budget in budgets {
                method
                    .check_budget(budget)
                    .map_err(|source| Error::Budget { method, source })?;
                let budget = Some(budget);
                variants.push(Variant { method, budget });
            }
        }
        match variants.is_empty() {
            true => Err(Error::Nothing),
            false => Ok(variants),
        }
    }

    /// The budget for a prompt of `tokens` tokens.
    pub fn budget_for(&self, tokens: usize) -> usize {
        self.budget.unwrap_or(tokens)
    }

    /// What a record of this variant answers.
    pub fn key(&self, task: &str, sample: &str) -> Key {
        Key {
            task: task.to_owned(),
            sample: sample.to_owned(),
            policy: self.method.to_string(),
            budget_tokens: self.budget.map(|budget| budget as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(policies: &[&str], budgets: &[usize]) -> Result<Vec<Variant>, Error> {
        let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
        Variant::all(&policies, budgets)
    }

    #[test]
    fn every_policy_meets_every_budget_once_and_full_meets_none() {
        let found = all(&["all", "lava", "lava+sinks=4"], &[64, 128]).unwrap();
        let evicting = Policy::ALL.len() - 1;
        assert_eq!(found.len(), 1 + 2 * evicting + 2);
        assert_eq!(found.iter().filter(|v| v.budget.is_none()).count(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message =
            |policies: &[&str], budgets: &[usize]| all(policies, budgets).unwrap_err().to_string();
        assert!(message(&["lawa"], &[64]).contains("known are full, lava"));
        let small = message(&["snapkv"], &[64, 8]);
        assert!(
            small.starts_with("snapkv: ") && small.contains("32"),
            "{small}"
        );
        assert_eq!(
            message(&["lava"], &[]),
            "give a policy and, unless it is full, a budget"
        );
    }
}
