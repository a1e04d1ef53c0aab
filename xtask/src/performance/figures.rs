//! Numbers of a JSON document, with errors that name what is missing.

use anyhow::{Context, Result};
use serde_json::Value;

pub(super) fn number(of: &Value, key: &str) -> Result<f64> {
    let found = of[key].as_f64();
    found.with_context(|| format!("there is no number {key:?}"))
}

pub(super) fn text<'a>(of: &'a Value, key: &str) -> Result<&'a str> {
    let found = of[key].as_str();
    found.with_context(|| format!("there is no text {key:?}"))
}

pub(super) fn list<'a>(of: &'a Value, key: &str) -> Result<&'a [Value]> {
    let found = of[key].as_array().map(Vec::as_slice);
    found.with_context(|| format!("there is no list {key:?}"))
}

/// The element of a list in which every key has its number.
pub(super) fn with<'a>(rows: &'a [Value], wanted: &[(&str, f64)]) -> Result<&'a Value> {
    let fits = |row: &&Value| {
        wanted
            .iter()
            .all(|(key, number)| row[*key].as_f64() == Some(*number))
    };
    let found = rows.iter().find(fits);
    found.with_context(|| format!("there is no row with {wanted:?}"))
}

/// The different numbers under a key, in the order in which they come.
pub(super) fn different(rows: &[Value], key: &str) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for row in rows {
        let number = number(row, key)?;
        if !found.contains(&number) {
            found.push(number);
        }
    }
    Ok(found)
}

/// The middle one; of an even number of them the upper one.
pub(super) fn median(mut numbers: Vec<f64>) -> Result<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.get(numbers.len() / 2).copied();
    middle.context("there are no rounds")
}

/// Of bytes, in decimal units as everywhere.
pub(super) fn bytes(count: f64) -> String {
    match count {
        x if x >= 1e9 => format!("{:.2} GB", x / 1e9),
        x if x >= 1e6 => format!("{:.2} MB", x / 1e6),
        x => format!("{:.1} kB", x / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_named() {
        let rows = [json!({"a": 1, "b": 2.5}), json!({"a": 3, "b": 2.5})];
        assert_eq!(number(&rows[0], "b").unwrap(), 2.5);
        assert_eq!(with(&rows, &[("b", 2.5), ("a", 3.0)]).unwrap(), &rows[1]);
        assert_eq!(different(&rows, "b").unwrap(), [2.5]);
        assert!(
            number(&rows[0], "c")
                .unwrap_err()
                .to_string()
                .contains("\"c\"")
        );
        let error = with(&rows, &[("a", 2.0)]).unwrap_err().to_string();
        assert!(error.contains("(\"a\", 2.0)"), "{error}");
        assert_eq!(median(vec![3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert!(median(Vec::new()).is_err());
        assert_eq!(
            [2.5e9, 46_450_000.0, 900.0].map(bytes),
            ["2.50 GB", "46.45 MB", "0.9 kB"]
        );
    }
}
