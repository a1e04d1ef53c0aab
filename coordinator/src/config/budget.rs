//! The budget of requests that name none, as it is written in the configuration.

use std::fmt;

use lava::{Budget, Method};
use lava_node::ConfigError;
use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

use super::contradiction;

/// Reads a number of entries, or any form as text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Budget, D::Error> {
    from.deserialize_any(Written)
}

/// Checks what can be known before there is a prompt and a model.
///
/// # Errors
/// The operator wrote a budget with which no request can run, or none but short ones.
pub(super) fn check(budget: Budget, method: &Method) -> Result<(), ConfigError> {
    let expected = match budget {
        Budget::Entries(entries) => match method.check_budget(entries as usize) {
            Ok(()) => return Ok(()),
            Err(error) => format!("one that fits the policy ({error})"),
        },
        Budget::Share { milli: 0 } | Budget::Bytes(0) => "more than nothing".to_owned(),
        Budget::Share { .. } | Budget::Bytes(_) => return Ok(()),
    };
    Err(contradiction("defaults.budget", &budget, &expected))
}

struct Written;

impl Visitor<'_> for Written {
    type Value = Budget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entries per KV head and layer as in 1024, or text as in \"10%\" or \"3MB\"")
    }

    fn visit_i64<E: Error>(self, entries: i64) -> Result<Budget, E> {
        let found = Unexpected::Signed(entries);
        u32::try_from(entries)
            .map(Budget::Entries)
            .map_err(|_| E::invalid_value(found, &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Budget, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use lava_node::config;

    use super::*;
    use crate::config::Config;

    fn loaded(written: &str) -> Result<Config, ConfigError> {
        let given = format!("defaults.budget={written}").parse()?;
        config::load(None, &[given])
    }

    #[test]
    fn a_default_budget_is_a_number_or_text() {
        for (written, expected) in [
            ("64", Budget::Entries(64)),
            ("'64'", Budget::Entries(64)),
            ("2.5%", Budget::Share { milli: 25 }),
            ("3MB", Budget::Bytes(3_000_000)),
        ] {
            assert_eq!(loaded(written).unwrap().defaults.budget, expected);
        }
        for (written, expected) in [
            (
                "-1",
                expect![[
                    r#"override `defaults.budget=-1`: invalid value: integer `-1`, expected entries per KV head and layer as in 1024, or text as in "10%" or "3MB""#
                ]],
            ),
            (
                "1.5",
                expect![[
                    r#"override `defaults.budget=1.5`: invalid type: floating point `1.5`, expected entries per KV head and layer as in 1024, or text as in "10%" or "3MB""#
                ]],
            ),
            (
                "3mb",
                expect![[
                    r#"override `defaults.budget=3mb`: "3mb" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)"#
                ]],
            ),
        ] {
            expected.assert_eq(&loaded(written).unwrap_err().to_string());
        }
    }
}
