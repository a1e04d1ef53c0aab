//! A budget as one word of text.

use std::fmt;
use std::str::FromStr;

use super::Budget;

const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// All of the prompt.
const WHOLE_MILLI: u32 = 1000;

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match *self {
            Budget::Entries(entries) => entries.to_string(),
            Budget::Share { milli } => format!("{}%", decimal(milli.into(), 1)),
            Budget::Bytes(bytes) => bytes_text(bytes),
        })
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes}B"),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        1000..1_000_000 => format!("{}kB", decimal(bytes, 3)),
        1_000_000..1_000_000_000 => format!("{}MB", decimal(bytes, 6)),
        _ => format!("{}GB", decimal(bytes, 9)),
    }
}

/// A number that counts units of `10^-places`, without zeros at its end.
fn decimal(count: u64, places: usize) -> String {
    let unit = 10u64.pow(places as u32);
    match count % unit {
        0 => (count / unit).to_string(),
        rest => {
            let text = format!("{}.{rest:0places$}", count / unit);
            text.trim_end_matches('0').to_owned()
        }
    }
}

impl FromStr for Budget {
    type Err = ParseBudgetError;

    /// # Errors
    /// Whoever wrote the text: it is none of the three forms, finer than what is counted, or too large.
    fn from_str(text: &str) -> Result<Budget, ParseBudgetError> {
        let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
        let unit_at = text.find(|c| !is_of_number(c)).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let count = |unit, of, most| {
            whole(number, unit).map_err(|flaw| ParseBudgetError::new(text, flaw, of, most))
        };
        match unit {
            "" => {
                let most = Budget::Entries(u32::MAX);
                let entries = count(1, "entries", most)?;
                let entries = u32::try_from(entries);
                let entries = entries.map_err(|_| ParseBudgetError::too_large(text, most))?;
                Ok(Budget::Entries(entries))
            }
            "%" => {
                let most = Budget::Share { milli: WHOLE_MILLI };
                match u32::try_from(count(10, "thousandths (0.1%)", most)?) {
                    Ok(milli @ 0..=WHOLE_MILLI) => Ok(Budget::Share { milli }),
                    _ => Err(ParseBudgetError::too_large(text, most)),
                }
            }
            _ => match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, bytes)) => {
                    let most = Budget::Bytes(u64::MAX);
                    count(*bytes, "bytes", most).map(Budget::Bytes)
                }
                None => Err(ParseBudgetError::not_a_budget(text)),
            },
        }
    }
}

/// Why a number of digits and dots is no count.
#[derive(Debug, Clone, Copy)]
enum Flaw {
    NotANumber,
    Fraction,
    TooLarge,
}

/// `number * unit`, exactly.
fn whole(number: &str, unit: u64) -> Result<u64, Flaw> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Flaw::NotANumber);
    }
    let fraction = fraction.trim_end_matches('0');
    let digits: u128 = [whole, fraction]
        .concat()
        .parse()
        .map_err(|_| Flaw::TooLarge)?;
    let places = u32::try_from(fraction.len()).map_err(|_| Flaw::Fraction)?;
    let parts = 10u128.checked_pow(places).ok_or(Flaw::Fraction)?;
    let scaled = digits.checked_mul(unit.into()).ok_or(Flaw::TooLarge)?;
    match scaled % parts {
        0 => u64::try_from(scaled / parts).map_err(|_| Flaw::TooLarge),
        _ => Err(Flaw::Fraction),
    }
}

/// A text is not a budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBudgetError {
    /// It is none of the forms.
    #[error(
        "{found:?} is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are {})",
        UNITS.map(|(name, _)| name).join(", ")
    )]
    NotABudget {
        /// The text as it was given.
        found: String,
    },
    /// It is finer than what is counted.
    #[error("the budget {found:?} is not a whole number of {of}")]
    Fraction {
        /// The text as it was given.
        found: String,
        /// What is counted.
        of: &'static str,
    },
    /// It is more than there can be.
    #[error("the budget {found:?} is too large, expected at most {most}")]
    TooLarge {
        /// The text as it was given.
        found: String,
        /// The most.
        most: Budget,
    },
}

impl ParseBudgetError {
    fn new(text: &str, flaw: Flaw, of: &'static str, most: Budget) -> ParseBudgetError {
        match flaw {
            Flaw::NotANumber => ParseBudgetError::not_a_budget(text),
            Flaw::TooLarge => ParseBudgetError::too_large(text, most),
            Flaw::Fraction => ParseBudgetError::Fraction {
                found: text.to_owned(),
                of,
            },
        }
    }

    fn not_a_budget(text: &str) -> ParseBudgetError {
        ParseBudgetError::NotABudget {
            found: text.to_owned(),
        }
    }

    fn too_large(text: &str, most: Budget) -> ParseBudgetError {
        ParseBudgetError::TooLarge {
            found: text.to_owned(),
            most,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Budget, printed: &str) {
        assert_eq!(text.parse(), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), printed);
        assert_eq!(printed.parse(), Ok(expected), "{printed}");
    }

    #[test]
    fn every_form_is_read_and_printed() {
        let share = |milli| Budget::Share { milli };
        check("128", Budget::Entries(128), "128");
        check("0128.0", Budget::Entries(128), "128");
        check("10%", share(100), "10%");
        check("2.5%", share(25), "2.5%");
        check("0.10%", share(1), "0.1%");
        check("100%", share(1000), "100%");
        let bytes = Budget::Bytes;
        check("0B", bytes(0), "0B");
        check("999B", bytes(999), "999B");
        check("500kB", bytes(500_000), "500kB");
        check("500KiB", bytes(512_000), "512kB");
        check("0.5MB", bytes(500_000), "500kB");
        check("3MB", bytes(3_000_000), "3MB");
        check("1520640B", bytes(1_520_640), "1.52064MB");
        check("3MiB", bytes(3 << 20), "3MiB");
        check("1GB", bytes(1_000_000_000), "1GB");
        check("1.5GiB", bytes(1536 << 20), "1536MiB");
        check("2GiB", bytes(2 << 30), "2GiB");
        assert_eq!(format!("[{:>5}]", Budget::Entries(7)), "[    7]");
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_a_budget_is() {
        let errors = [
            "",
            "-1",
            " 128",
            "1.2.3",
            ".5%",
            "3 MB",
            "3mb",
            "1.5",
            "0.05%",
            "0.0001kB",
            "4294967296",
            "100.1%",
            "99999999999999999999999999999999999999999GB",
        ];
        let errors = errors.map(|text| text.parse::<Budget>().unwrap_err().to_string());
        expect![[r#"
            "" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            "-1" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            " 128" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            "1.2.3" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            ".5%" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            "3 MB" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            "3mb" is not a budget, expected entries per KV head and layer as in 128, a share of the prompt as in 10%, or bytes of the cache as in 3MB (units are B, kB, MB, GB, KiB, MiB, GiB)
            the budget "1.5" is not a whole number of entries
            the budget "0.05%" is not a whole number of thousandths (0.1%)
            the budget "0.0001kB" is not a whole number of bytes
            the budget "4294967296" is too large, expected at most 4294967295
            the budget "100.1%" is too large, expected at most 100%
            the budget "99999999999999999999999999999999999999999GB" is too large, expected at most 18446744073.709551615GB"#]].assert_eq(&errors.join("\n"));
    }
}
