//! Mooncake's traces (kvcache-ai/Mooncake, FAST25-release): one JSON object a line.

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::Place;
use crate::jsonl::{LineError, Lines};
use crate::load::arrival::{Arrival, Blocks};

/// Tokens of the prompt that one of its `hash_ids` stands for.
pub const BLOCK_TOKENS: u32 = 512;

/// A year. Later times are a mistake in the unit.
const TIMESTAMP_MS_MAX: u64 = 366 * 24 * 3_600_000;

const EXPECTED: &str = "a request of Mooncake: timestamp (ms), input_length and output_length (tokens), hash_ids (a number per 512 tokens of input_length)";

#[derive(Deserialize)]
struct Row {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

pub(super) fn read(
    file: &Path,
    input: impl BufRead,
    requests_max: usize,
) -> Result<Vec<Arrival>, LineError> {
    let mut lines = Lines::new(file, input, EXPECTED);
    let mut plan = Vec::new();
    while plan.len() < requests_max
        && let Some(line) = lines.next::<Row>()?
    {
        let place = Place {
            file,
            line: line.number,
        };
        plan.push(arrival(place, line.value, &plan)?);
    }
    Ok(plan)
}

fn arrival(place: Place<'_>, row: Row, plan: &[Arrival]) -> Result<Arrival, LineError> {
    if row.timestamp > TIMESTAMP_MS_MAX {
        let found = row.timestamp.to_string();
        return Err(place.wrong("timestamp", found, "milliseconds of a year at most"));
    }
    let prompt_tokens = place.tokens("input_length", row.input_length)?;
    let ids = row.hash_ids;
    if ids.len() != prompt_tokens.div_ceil(BLOCK_TOKENS) as usize {
        let found = format!("{} ids for {prompt_tokens} tokens", ids.len());
        return Err(place.wrong("hash_ids", found, "one per 512 tokens or part of them"));
    }
    Ok(Arrival {
        at: place.in_order("timestamp", plan, Duration::from_millis(row.timestamp))?,
        prompt_tokens,
        output_tokens: place.tokens("output_length", row.output_length)?,
        blocks: Some(Blocks {
            tokens: BLOCK_TOKENS,
            ids,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Arrival>, LineError> {
        read(Path::new("t.jsonl"), text.as_bytes(), 10)
    }

    #[test]
    fn a_row_becomes_a_request() {
        let text = r#"{"timestamp": 0, "input_length": 513, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 27482, "input_length": 30, "output_length": 2, "hash_ids": [46], "type": "text"}
"#;
        let plan = rows(text).unwrap();
        assert_eq!(
            plan[0],
            Arrival {
                at: Duration::ZERO,
                prompt_tokens: 513,
                output_tokens: 52,
                blocks: Some(Blocks {
                    tokens: 512,
                    ids: vec![46, 47]
                }),
            }
        );
        assert_eq!(plan[1].at, Duration::from_millis(27_482));
        assert_eq!(plan.len(), 2);
    }

    #[track_caller]
    fn check(row: &str, expected: &[&str]) {
        let good = r#"{"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#;
        let error = rows(&format!("{good}\n{row}\n")).unwrap_err().to_string();
        assert!(error.starts_with("t.jsonl:2: "), "{error}");
        for part in expected {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_bad_row_is_refused_with_its_line_and_what_was_expected() {
        check("{", &["EOF", "expected a request of Mooncake"]);
        check(
            r#"{"timestamp": 9, "input_length": 1, "output_length": 1}"#,
            &["hash_ids", "a number per 512 tokens"],
        );
        check(
            r#"{"timestamp": 9, "input_length": -1, "output_length": 1, "hash_ids": [0]}"#,
            &["-1", "expected u32"],
        );
        check(
            r#"{"timestamp": 9, "input_length": 1, "output_length": 0, "hash_ids": [0]}"#,
            &["output_length is 0, expected at least 1"],
        );
        check(
            r#"{"timestamp": 9, "input_length": 600, "output_length": 1, "hash_ids": [0]}"#,
            &["hash_ids is 1 ids for 600 tokens, expected one per 512"],
        );
        check(
            r#"{"timestamp": 8, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#,
            &["timestamp is 0.001 s before", "ascending"],
        );
        check(
            r#"{"timestamp": 99999999999999, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#,
            &["timestamp is 99999999999999", "milliseconds"],
        );
    }
}
