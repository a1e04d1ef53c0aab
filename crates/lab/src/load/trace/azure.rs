//! The LLM inference traces of Azure's public dataset of 2023: CSV with numbers only.

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::Place;
use crate::jsonl::{LineError, Lines, short};
use crate::load::arrival::Arrival;

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

const TIMESTAMP: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]");

pub(super) fn read(
    file: &Path,
    input: impl BufRead,
    requests_max: usize,
) -> Result<Vec<Arrival>, LineError> {
    let mut lines = Lines::new(file, input, HEADER);
    let mut began = None;
    let mut has_header = false;
    let mut plan: Vec<Arrival> = Vec::new();
    while plan.len() < requests_max
        && let Some(line) = lines.next_bytes()?
    {
        let place = Place {
            file,
            line: line.number,
        };
        let text = String::from_utf8_lossy(line.value);
        let text = text.trim_end();
        if !has_header {
            if text != HEADER {
                return Err(place.wrong("the first row", short(text), HEADER));
            }
            has_header = true;
            continue;
        }
        let row = Row::parse(place, text)?;
        let began = *began.get_or_insert(row.at);
        let at = Duration::try_from(row.at - began)
            .map_err(|_| place.wrong("TIMESTAMP", short(text), "times in ascending order"))?;
        plan.push(Arrival {
            at: place.in_order("TIMESTAMP", &plan, at)?,
            prompt_tokens: row.context_tokens,
            output_tokens: row.generated_tokens,
            blocks: None,
        });
    }
    Ok(plan)
}

struct Row {
    at: PrimitiveDateTime,
    context_tokens: u32,
    generated_tokens: u32,
}

impl Row {
    fn parse(place: Place<'_>, text: &str) -> Result<Row, LineError> {
        let fields: Vec<&str> = text.split(',').collect();
        let &[at, context, generated] = fields.as_slice() else {
            return Err(place.wrong("the row", short(text), HEADER));
        };
        let tokens = |field, text: &str| {
            let number = text.trim().parse();
            let number =
                number.map_err(|_| place.wrong(field, short(text), "a number of tokens"))?;
            place.tokens(field, number)
        };
        Ok(Row {
            at: PrimitiveDateTime::parse(at.trim(), TIMESTAMP).map_err(|_| {
                place.wrong(
                    "TIMESTAMP",
                    short(at),
                    "a time such as 2023-11-16 18:15:46.6805900",
                )
            })?,
            context_tokens: tokens("ContextTokens", context)?,
            generated_tokens: tokens("GeneratedTokens", generated)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Arrival>, LineError> {
        read(Path::new("t.csv"), text.as_bytes(), 10)
    }

    #[test]
    fn a_row_becomes_a_request() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                    2023-11-16 23:59:59.6805900,374,44\r\n\
                    2023-11-17 00:00:00.9951690,396,109";
        let plan = rows(text).unwrap();
        let sizes: Vec<_> = plan
            .iter()
            .map(|arrival| {
                (
                    arrival.at.as_micros(),
                    arrival.prompt_tokens,
                    arrival.output_tokens,
                )
            })
            .collect();
        assert_eq!(sizes, [(0, 374, 44), (1_314_579, 396, 109)]);
        assert!(plan.iter().all(|arrival| arrival.blocks.is_none()));
    }

    #[track_caller]
    fn check(row: &str, expected: &[&str]) {
        let good = "2023-11-16 18:15:46.68,374,44";
        let error = rows(&format!("{HEADER}\n{good}\n{row}\n")).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("t.csv:3: "), "{error}");
        for part in expected {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_bad_row_is_refused_with_its_line_and_what_was_expected() {
        check("2023-11-16 18:15:46.68,374", &["the row is \"2023", HEADER]);
        check("yesterday,374,44", &["TIMESTAMP is \"yesterday\"", "2023-"]);
        check(
            "2023-11-16 18:15:47.1,many,44",
            &["ContextTokens is \"many\", expected a number of tokens"],
        );
        check(
            "2023-11-16 18:15:47.1,5,0",
            &["GeneratedTokens is 0, expected at least 1"],
        );
        check(
            "2023-11-16 18:15:45.0,5,5",
            &["TIMESTAMP", "ascending order"],
        );
        let error = rows("a,b,c\n").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("t.csv:1: the first row is \"a,b,c\", expected {HEADER}")
        );
    }
}
