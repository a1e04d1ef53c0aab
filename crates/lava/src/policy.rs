//! Which eviction rule a request asks for.

use std::fmt;
use std::str::FromStr;

/// The eviction rule of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Keep every entry.
    Full,
    /// LAVa in one of its three profiles.
    Lava(Profile),
}

/// The three readings of LAVa; `tests/data/reference.py` states all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The product's default: Q20 entropies, integer budgets in entries, and a head floor that
    /// every prefix of a layer's order honours. Totals never exceed the budget and fall short of it
    /// by less than `L`.
    Exact,
    /// Algorithms 1 and 2 of the paper: no head floor, `f64` budgets truncated per KV head.
    Paper,
    /// The rule of the authors' released code: `f64` budgets, and a head floor taken from the whole
    /// budget, so that totals exceed the budget by about `alpha · W` per KV head and layer.
    Code,
}

impl Policy {
    /// The spellings that [`Policy::from_str`] accepts.
    pub const NAMES: [&str; 5] = ["full", "lava", "lava-exact", "lava-paper", "lava-code"];
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Policy, UnknownPolicy> {
        match name {
            "full" => Ok(Policy::Full),
            "lava" | "lava-exact" => Ok(Policy::Lava(Profile::Exact)),
            "lava-paper" => Ok(Policy::Lava(Profile::Paper)),
            "lava-code" => Ok(Policy::Lava(Profile::Code)),
            _ => Err(UnknownPolicy {
                found: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Policy::Full => "full",
            Policy::Lava(Profile::Exact) => "lava-exact",
            Policy::Lava(Profile::Paper) => "lava-paper",
            Policy::Lava(Profile::Code) => "lava-code",
        })
    }
}

/// The request named a policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {found:?}; known are {}", Policy::NAMES.join(", "))]
pub struct UnknownPolicy {
    /// The name as it was given.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_parses_and_prints_a_name_that_parses_back() {
        for name in Policy::NAMES {
            let policy: Policy = name.parse().unwrap();
            assert_eq!(policy.to_string().parse(), Ok(policy), "{name}");
        }
        assert_eq!("lava".parse(), Ok(Policy::Lava(Profile::Exact)));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = "snapkv".parse::<Policy>().unwrap_err();
        expect_test::expect![[
            r#"unknown policy "snapkv"; known are full, lava, lava-exact, lava-paper, lava-code"#
        ]]
        .assert_eq(&error.to_string());
    }
}
