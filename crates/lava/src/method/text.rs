//! A method as one word of text.

use std::fmt;
use std::str::FromStr;

use super::Method;
use crate::config::{Config, Gqa, LayerWeight, Pool, Score, ValueNorm};
use crate::{Error, UnknownPolicy};

/// One setting: how it is called, what it may be, and where it is.
struct Setting {
    name: &'static str,
    /// Every value it may have; empty for a whole number.
    values: &'static [&'static str],
    get: fn(&Config) -> String,
    /// None if the value is not understood.
    set: fn(&mut Config, &str) -> Option<()>,
}

macro_rules! number {
    ($name:literal, $field:ident) => {
        Setting {
            name: $name,
            values: &[],
            get: |config| config.$field.to_string(),
            set: |config, value| value.parse().ok().map(|value| config.$field = value),
        }
    };
}

macro_rules! choice {
    ($name:literal, $field:ident, $type:ident) => {
        Setting {
            name: $name,
            values: $type::NAMES,
            get: |config| config.$field.name().to_owned(),
            set: |config, value| $type::from_name(value).map(|value| config.$field = value),
        }
    };
}

const SETTINGS: [Setting; 16] = [
    number!("window", window),
    number!("observers", observers),
    number!("kernel", kernel),
    choice!("pool", pool, Pool),
    number!("shoulder", shoulder_milli),
    choice!("gqa", gqa, Gqa),
    choice!("value-norm", value_norm, ValueNorm),
    number!("alpha", alpha_milli),
    choice!("score", score, Score),
    number!("sinks", sinks),
    number!("floor", layer_floor_milli),
    choice!("weight", layer_weight, LayerWeight),
    number!("beta", beta),
    number!("tau1", tau1_milli),
    number!("tau2", tau2_milli),
    number!("gamma", gamma_milli),
];

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Method::new(self.policy).config;
        let mut text = self.policy.to_string();
        for setting in &SETTINGS {
            let value = (setting.get)(&self.config);
            if value != (setting.get)(&default) {
                text += &format!("+{}={value}", setting.name);
            }
        }
        f.pad(&text)
    }
}

impl FromStr for Method {
    type Err = ParseMethodError;

    /// # Errors
    /// Whoever wrote the text: a policy, a setting or a value that is not known, a setting given
    /// twice, or settings that [`Config::check`] refuses.
    fn from_str(text: &str) -> Result<Method, ParseMethodError> {
        let mut parts = text.split('+');
        let policy = parts.next().unwrap_or_default().parse()?;
        let mut method = Method::new(policy);
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
                let found = name.to_owned();
                return Err(ParseMethodError::UnknownSetting { found });
            };
            if seen.contains(&setting.name) {
                let setting = setting.name;
                return Err(ParseMethodError::RepeatedSetting { setting });
            }
            seen.push(setting.name);
            if (setting.set)(&mut method.config, value).is_none() {
                return Err(ParseMethodError::BadValue {
                    setting: setting.name,
                    found: value.to_owned(),
                    values: setting.values,
                });
            }
        }
        method.config.check()?;
        Ok(method)
    }
}

/// A text is not a method.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseMethodError {
    /// It does not begin with a policy's name.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// It has a setting that does not exist.
    #[error("unknown setting {found:?}; known are {}", SETTINGS.map(|s| s.name).join(", "))]
    UnknownSetting {
        /// The name as it was given.
        found: String,
    },
    /// It has a setting twice.
    #[error("the setting {setting} is given twice")]
    RepeatedSetting {
        /// Its name.
        setting: &'static str,
    },
    /// It has a value that the setting cannot have.
    #[error("{setting} is {found:?}, expected {}", expected(values))]
    BadValue {
        /// Name of the setting.
        setting: &'static str,
        /// The value as it was given.
        found: String,
        /// Every value the setting may have; empty for a whole number.
        values: &'static [&'static str],
    },
    /// Its settings are out of range.
    #[error(transparent)]
    Config(#[from] Error),
}

fn expected(values: &[&str]) -> String {
    if values.is_empty() {
        "a whole number".to_owned()
    } else {
        format!("one of {}", values.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::Policy;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let method: Method = text.parse().unwrap();
        assert_eq!(method.to_string(), expected);
        assert_eq!(expected.parse(), Ok(method));
    }

    #[test]
    fn only_what_differs_from_the_default_is_printed() {
        check("lava", "lava-exact");
        check(
            "lava+score=max-clamp+sinks=4+floor=100+alpha=0",
            "lava-exact+alpha=0+score=max-clamp+sinks=4+floor=100",
        );
        check(
            "cake+tau1=1600+kernel=7+tau2=0400",
            "cake+tau1=1600+tau2=400",
        );
        check("streaming-llm+sinks=4", "streaming-llm");
        check("streaming-llm+sinks=0", "streaming-llm+sinks=0");
        check("full+window=8+pool=none", "full+window=8+pool=none");
        assert_eq!(format!("[{:>8}]", Method::new(Policy::Tova)), "[    tova]");
    }

    #[test]
    fn every_setting_is_read_and_printed() {
        let all = "random+window=1+observers=5+kernel=3+pool=avg+shoulder=9+gqa=mean+value-norm=all+alpha=1+score=value-output\
                   +sinks=2+floor=3+weight=perplexity+beta=4+tau1=500+tau2=600+gamma=7";
        check(all, all);
        assert_eq!(all.matches('+').count(), SETTINGS.len());
    }

    #[test]
    fn a_refusal_names_what_was_found_and_what_is_known() {
        let errors = [
            "",
            "LAVA",
            "lava+",
            "lava+windows=8",
            "lava+window",
            "lava+window=-1",
            "lava+alpha=0.2",
            "lava+score=best",
            "lava+sinks=4+sinks=4",
            "lava+kernel=4",
            "cake+tau1=0",
        ];
        let errors = errors.map(|text| text.parse::<Method>().unwrap_err().to_string());
        expect![[r#"
            unknown policy ""; known are full, lava, lava-exact, lava-paper, lava-code, lava-peaks, lava-uniform, lava-heads, snapkv, pyramidkv, ada-snapkv, ada-pyramidkv, cake, streaming-llm, h2o, tova, random
            unknown policy "LAVA"; known are full, lava, lava-exact, lava-paper, lava-code, lava-peaks, lava-uniform, lava-heads, snapkv, pyramidkv, ada-snapkv, ada-pyramidkv, cake, streaming-llm, h2o, tova, random
            unknown setting ""; known are window, observers, kernel, pool, shoulder, gqa, value-norm, alpha, score, sinks, floor, weight, beta, tau1, tau2, gamma
            unknown setting "windows"; known are window, observers, kernel, pool, shoulder, gqa, value-norm, alpha, score, sinks, floor, weight, beta, tau1, tau2, gamma
            window is "", expected a whole number
            window is "-1", expected a whole number
            alpha is "0.2", expected a whole number
            score is "best", expected one of lava, max-clamp, value-output, max-clamp-value-output, rms-value-output
            the setting sinks is given twice
            the pool's kernel is 4 tokens, expected an odd number
            tau is 0 thousandths, expected at least 50"#]].assert_eq(&errors.join("\n"));
    }
}
