//! What is compared: policies at budgets.

use std::collections::BTreeSet;

use lava::{Budget, Method, ParseMethodError, Policy, Shape};
use lava_engine::ModelConfig;
use lava_kv::RowFormat;
use thiserror::Error;

use crate::results::Key;

/// One policy at one budget in one row format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The policy with its settings.
    pub method: Method,
    /// How rows that compete are stored.
    pub format: RowFormat,
    /// None where nothing is evicted.
    pub budget: Option<Budget>,
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
        method: Box<Method>,
        /// The least that works.
        source: lava::Error,
    },
    /// Nothing is left.
    #[error("give a policy and, unless it is full, a budget")]
    Nothing,
}

impl Variant {
    /// Nothing is evicted.
    pub fn full(format: RowFormat) -> Self {
        Self {
            method: Method::new(Policy::Full),
            format,
            budget: None,
        }
    }

    /// Every policy at every budget in every format, each once; `all` stands for every policy with its
    /// default settings.
    ///
    /// # Errors
    /// A policy is unknown, or a budget too small for one.
    pub fn all(
        policies: &[String],
        formats: &[RowFormat],
        budgets: &[Budget],
    ) -> Result<Vec<Variant>, Error> {
        let mut methods = Vec::new();
        for name in policies {
            match name.as_str() {
                "all" => methods.extend(Policy::ALL.map(Method::new)),
                name => methods.push(name.parse()?),
            }
        }
        let mut seen = BTreeSet::new();
        let mut variants = Vec::new();
        let mut add = |variant: Variant| {
            if seen.insert(variant.key("", "")) {
                variants.push(variant);
            }
        };
        for method in methods {
            for &format in formats {
                if method.policy == Policy::Full {
                    add(Variant::full(format));
                    continue;
                }
                for &budget in budgets {
                    if let Budget::Entries(entries) = budget {
                        // Other forms depend on the prompt.
                        let checked = method.check_budget(entries as usize);
                        checked.map_err(|source| too_small(method, source))?;
                    }
                    let budget = Some(budget);
                    add(Variant {
                        method,
                        format,
                        budget,
                    });
                }
            }
        }
        match variants.is_empty() {
            true => Err(Error::Nothing),
            false => Ok(variants),
        }
    }

    /// The budget of a prompt in entries per KV head and layer.
    ///
    /// # Errors
    /// It is too small for the prompt.
    pub fn entries(&self, shape: Shape, config: &ModelConfig) -> Result<usize, Error> {
        let bytes = config.entry_bytes(self.format);
        let found = match self.budget {
            Some(budget) => budget.entries(&self.method, shape, bytes),
            None => Ok(shape.tokens),
        };
        found.map_err(|source| too_small(self.method, source))
    }

    /// As reports call it: the policy, and the row format unless that is half precision.
    pub fn label(&self) -> String {
        match self.format {
            RowFormat::F16 => self.method.to_string(),
            format => format!("{} in {format}", self.method),
        }
    }

    /// What a record of this variant answers.
    pub fn key(&self, task: &str, sample: &str) -> Key {
        Key {
            task: task.to_owned(),
            sample: sample.to_owned(),
            policy: self.label(),
            budget: self.budget.map(|budget| budget.to_string()),
        }
    }
}

fn too_small(method: Method, source: lava::Error) -> Error {
    let method = Box::new(method);
    Error::Budget { method, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(policies: &[&str], budgets: &[u32]) -> Result<Vec<Variant>, Error> {
        let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
        let budgets: Vec<Budget> = budgets.iter().map(|&b| Budget::Entries(b)).collect();
        Variant::all(&policies, &[RowFormat::F16], &budgets)
    }

    #[test]
    fn every_policy_meets_every_budget_once_and_full_meets_none() {
        let found = all(&["all", "lava", "lava+sinks=4"], &[64, 128, 64]).unwrap();
        let evicting = Policy::ALL.len() - 1;
        assert_eq!(found.len(), 1 + evicting * 2 + 2);
        assert_eq!(found.iter().filter(|v| v.budget.is_none()).count(), 1);
    }

    #[test]
    fn every_format_meets_every_budget_and_has_a_label() {
        let policies = ["full".to_owned(), "lava".to_owned()];
        let formats = [RowFormat::F16, RowFormat::Int4, RowFormat::F16];
        let budgets = [Budget::Entries(64), Budget::Bytes(3_000_000)];
        let variants = Variant::all(&policies, &formats, &budgets).unwrap();
        let labels = variants.iter().map(|v| {
            let key = v.key("", "");
            format!("{} {}", key.policy, key.budget.unwrap_or_default())
        });
        assert_eq!(
            labels.collect::<Vec<_>>().join("; "),
            "full ; full in int4 ; lava-exact 64; lava-exact 3MB; lava-exact in int4 64; lava-exact in int4 3MB"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message =
            |policies: &[&str], budgets: &[u32]| all(policies, budgets).unwrap_err().to_string();
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
