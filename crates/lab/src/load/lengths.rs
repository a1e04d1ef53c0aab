//! How long prompts or answers are.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::dice::Dice;

/// The longest that can be asked for, in tokens.
const TOKENS_MAX: u32 = 1 << 24;

/// Standard deviations from the median to the 99th percentile of a normal distribution.
const P99_DEVIATIONS: f64 = 2.326_347_874_040_841;

/// A distribution of numbers of tokens, all at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// All of these alike.
    Uniform {
        /// The shortest.
        min: u32,
        /// The longest.
        max: u32,
    },
    /// Most are short and a few are long; the logarithm is normal.
    LogNormal {
        /// Half are at most so long.
        median: u32,
        /// 99 of 100 are at most so long.
        p99: u32,
    },
}

/// A text is no distribution of lengths.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{found:?} is no number of tokens, expected one of 512, 100..4000 and lognormal:MEDIAN,P99, with numbers from 1 to {TOKENS_MAX} in ascending order"
)]
pub struct ParseLengthsError {
    found: String,
}

impl Lengths {
    /// One length.
    pub(crate) fn draw(self, dice: &mut Dice) -> u32 {
        match self {
            Lengths::Fixed(tokens) => tokens,
            Lengths::Uniform { min, max } => min + dice.below((max - min) as usize + 1) as u32,
            Lengths::LogNormal { median, p99 } => {
                let (median, p99) = (f64::from(median), f64::from(p99));
                let deviation = (p99 / median).ln() / P99_DEVIATIONS;
                let drawn = median * (deviation * normal(dice)).exp();
                // A float that is too large for the type becomes its largest value.
                (drawn.round() as u32).clamp(1, TOKENS_MAX)
            }
        }
    }
}

/// One draw of the standard normal distribution (Box and Muller 1958).
fn normal(dice: &mut Dice) -> f64 {
    let radius = (-2.0 * (1.0 - dice.unit()).ln()).sqrt();
    radius * (TAU * dice.unit()).cos()
}

impl FromStr for Lengths {
    type Err = ParseLengthsError;

    fn from_str(text: &str) -> Result<Lengths, ParseLengthsError> {
        parse(text).ok_or_else(|| ParseLengthsError {
            found: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Lengths> {
    let tokens = |text: &str| {
        let tokens: u32 = text.trim().parse().ok()?;
        (1..=TOKENS_MAX).contains(&tokens).then_some(tokens)
    };
    let ascending = |(low, high): (&str, &str)| {
        let (low, high) = (tokens(low)?, tokens(high)?);
        (low <= high).then_some((low, high))
    };
    if let Some(settings) = text.strip_prefix("lognormal:") {
        let (median, p99) = ascending(settings.split_once(',')?)?;
        return Some(Lengths::LogNormal { median, p99 });
    }
    if let Some(bounds) = text.split_once("..") {
        let (min, max) = ascending(bounds)?;
        return Some(Lengths::Uniform { min, max });
    }
    Some(Lengths::Fixed(tokens(text)?))
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lengths::Fixed(tokens) => write!(f, "{tokens}"),
            Lengths::Uniform { min, max } => write!(f, "{min}..{max}"),
            Lengths::LogNormal { median, p99 } => write!(f, "lognormal:{median},{p99}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_length_is_refused_with_what_is_one() {
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "x",
            "5..4",
            "..4",
            "0..4",
            "5..",
            "1..2..3",
            "lognormal:",
            "lognormal:9",
            "lognormal:9,8",
            "normal:1,2",
            "16777217",
        ] {
            let error = text.parse::<Lengths>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
            assert!(error.contains("100..4000"), "{error}");
        }
    }

    #[test]
    fn a_lognormal_distribution_has_its_median_and_its_p99() {
        let lengths: Lengths = "lognormal:1000,5000".parse().unwrap();
        let mut dice = Dice::new(1, "lengths");
        let mut drawn: Vec<u32> = (0..20_000).map(|_| lengths.draw(&mut dice)).collect();
        drawn.sort_unstable();
        // The standard error of the median is 0.9 %, that of the 99th percentile about 2 %.
        let (median, p99) = (f64::from(drawn[10_000]), f64::from(drawn[19_800]));
        assert!((median / 1000.0 - 1.0).abs() < 0.03, "{median}");
        assert!((p99 / 5000.0 - 1.0).abs() < 0.08, "{p99}");
    }

    proptest! {
        #[test]
        fn uniform_draws_lie_inside_and_text_comes_back(
            min in 1_u32..1000, width in 0_u32..1000, seed: u64,
        ) {
            let lengths = Lengths::Uniform { min, max: min + width };
            let mut dice = Dice::new(seed, "lengths");
            for _ in 0..20 {
                prop_assert!((min..=min + width).contains(&lengths.draw(&mut dice)));
            }
            for lengths in [lengths, Lengths::Fixed(min), Lengths::LogNormal { median: min, p99: min + width }] {
                prop_assert_eq!(lengths.to_string().parse::<Lengths>(), Ok(lengths));
            }
        }
    }
}
