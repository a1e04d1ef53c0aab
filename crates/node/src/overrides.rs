//! One setting given outside the file.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;

use crate::ConfigError;

/// A value for one key, from the environment or a flag. Pass those of the flags after those of the
/// environment to [`load`](crate::config::load): later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The path through the tables, joined by dots: `prefill.queue_max`. No part is empty, and no
    /// part can contain a dot.
    pub key: String,
    /// A TOML value; what is not one is taken as a string. `4` is a number and `'4'` a string.
    pub value: String,
}

impl Override {
    /// The overrides among the variables of an environment: `LAVA__PREFILL__QUEUE_MAX` is the key
    /// `prefill.queue_max`. They come in the order of their names, so that two variables for the
    /// same key (in other case) or for a table and a key in it mean the same on every start.
    pub fn from_env(vars: impl Iterator<Item = (String, String)>) -> Vec<Override> {
        let mut vars: Vec<(String, String)> = vars
            .filter_map(|(name, value)| {
                let path = name.strip_prefix("LAVA__")?;
                Some((path.to_owned(), value))
            })
            .collect();
        vars.sort();
        vars.into_iter()
            .map(|(path, value)| Override {
                key: path.replace("__", ".").to_lowercase(),
                value,
            })
            .collect()
    }

    pub(crate) fn parsed(&self) -> DeValue<'_> {
        match DeValue::parse(&self.value) {
            Ok(value) => value.into_inner(),
            Err(_) => DeValue::String(Cow::from(self.value.as_str())),
        }
    }
}

/// Reads `key=value`, the argument of `--set`.
impl FromStr for Override {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Override, ConfigError> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Override {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => Err(ConfigError::NotAnOverride {
                found: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_env(vars: &[(&str, &str)], expected: &[&str]) {
        let vars = vars
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let found: Vec<String> = Override::from_env(vars)
            .iter()
            .map(Override::to_string)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn variables_with_the_prefix_map_to_key_paths() {
        check_env(
            &[
                ("PATH", "/bin"),
                ("LAVA__PREFILL__QUEUE_MAX", "4"),
                ("LAVA_HOME", "/x"),
                ("XLAVA__NAME", "x"),
                ("LAVA__NAME", "a=b"),
            ],
            &["name=a=b", "prefill.queue_max=4"],
        );
    }

    #[test]
    fn the_order_of_the_environment_does_not_matter() {
        let vars = [
            ("LAVA__A__B", "1"),
            ("LAVA__A", "{}"),
            ("LAVA__a", "{ b = 2 }"),
        ];
        let expected = ["a={}", "a.b=1", "a={ b = 2 }"];
        check_env(&vars, &expected);
        check_env(&[vars[2], vars[1], vars[0]], &expected);
    }

    #[test]
    fn a_flag_is_cut_at_the_first_equals_sign() {
        let given: Override = "a.b = c=d ".parse().unwrap();
        assert_eq!((given.key.as_str(), given.value.as_str()), ("a.b", "c=d"));
        for bad in ["", "a.b", "=1", " =1"] {
            let error = bad.parse::<Override>().unwrap_err();
            assert!(
                matches!(error, ConfigError::NotAnOverride { .. }),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        let cases = [
            ("4", "integer"),
            ("-0.5", "float"),
            ("true", "boolean"),
            ("'4'", "string"),
            ("[1, 2]", "array"),
            ("{ a = 1 }", "table"),
            ("", "string"),
            ("True", "string"),
            ("4 5", "string"),
            ("127.0.0.1:80", "string"),
            ("http://[::1]:2379", "string"),
            ("[::1]:80", "string"),
            ("info,lava=debug", "string"),
            ("/models/a b.gguf", "string"),
            ("4\nx = 5", "string"),
        ];
        for (value, expected) in cases {
            let given = Override {
                key: "a".to_owned(),
                value: value.to_owned(),
            };
            assert_eq!(given.parsed().type_str(), expected, "{value:?}");
        }
    }
}
