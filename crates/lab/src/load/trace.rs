//! Traces of real requests.

mod azure;
mod mooncake;

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::arrival::Arrival;
use crate::jsonl::{LineError, open};

pub use mooncake::BLOCK_TOKENS;

/// A trace that cannot be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// Its name does not tell what it is.
    #[error(
        "{}: no known kind of trace, expected a .jsonl file of Mooncake or a .csv file of Azure",
        file.display()
    )]
    Kind {
        /// Which file.
        file: PathBuf,
    },
    /// It has no rows.
    #[error("{}: no requests", file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
    /// A row is broken, or the file cannot be read.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// The first `requests_max` requests of a trace, from the time of the first one on.
///
/// # Errors
/// The file is no trace, or one of its rows is broken.
pub fn read_trace(file: &Path, requests_max: usize) -> Result<Vec<Arrival>, TraceError> {
    let kind = file.extension().and_then(|extension| extension.to_str());
    let mut plan = match kind {
        Some("jsonl") => mooncake::read(file, open(file)?, requests_max)?,
        Some("csv") => azure::read(file, open(file)?, requests_max)?,
        _ => {
            return Err(TraceError::Kind {
                file: file.to_owned(),
            });
        }
    };
    let Some(first) = plan.first().map(|arrival| arrival.at) else {
        return Err(TraceError::Empty {
            file: file.to_owned(),
        });
    };
    for arrival in &mut plan {
        arrival.at -= first;
    }
    Ok(plan)
}

/// Which row an error is about.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn wrong(self, field: &'static str, found: String, expected: &'static str) -> LineError {
        LineError::Field {
            file: self.file.to_owned(),
            line: self.line,
            field,
            found,
            expected,
        }
    }

    /// A time that is not before that of the row before.
    fn in_order(
        self,
        field: &'static str,
        plan: &[Arrival],
        at: Duration,
    ) -> Result<Duration, LineError> {
        match plan.last() {
            Some(last) if at < last.at => {
                let early = (last.at - at).as_secs_f64();
                let found = format!("{early} s before that of the row above");
                Err(self.wrong(field, found, "times in ascending order"))
            }
            _ => Ok(at),
        }
    }

    /// A number of tokens.
    fn tokens(self, field: &'static str, tokens: u32) -> Result<u32, LineError> {
        match tokens {
            0 => Err(self.wrong(field, "0".to_owned(), "at least 1")),
            tokens => Ok(tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_refused_by_its_name() {
        let error = read_trace(Path::new("trace.parquet"), 1).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("trace.parquet") && message.contains(".jsonl"));
        let error = read_trace(Path::new("nowhere.csv"), 1).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }

    #[test]
    fn an_empty_trace_is_refused_and_the_first_request_comes_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace.jsonl");
        std::fs::write(&file, "\n").unwrap();
        let error = read_trace(&file, 9).unwrap_err();
        assert!(error.to_string().ends_with("trace.jsonl: no requests"));
        let row = |at| {
            format!(
                "{{\"timestamp\":{at},\"input_length\":5,\"output_length\":2,\"hash_ids\":[1]}}\n"
            )
        };
        std::fs::write(&file, row(2000) + &row(2500) + "broken").unwrap();
        let plan = read_trace(&file, 2).unwrap();
        let times: Vec<_> = plan.iter().map(|arrival| arrival.at.as_millis()).collect();
        assert_eq!(times, [0, 500], "rows that nobody asked for are not read");
    }
}
