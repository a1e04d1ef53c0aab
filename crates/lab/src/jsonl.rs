//! Files of one JSON value per line.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// The longest line that is read. The longest published sample has about 4 MB.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Why a file of samples cannot be used: it is damaged, of another format, or cannot be read.
#[derive(Debug, Error)]
pub enum LineError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is no JSON, or has other fields.
    #[error("{}:{line}: {source}; expected {expected}", file.display())]
    Broken {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Which fields a line has.
        expected: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The fields are there, and one of them makes no sense.
    #[error("{}:{line}: {field} is {found}, expected {expected}", file.display())]
    Field {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Which field.
        field: &'static str,
        /// What it holds, in short.
        found: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// A line is longer than [`LINE_BYTES_MAX`].
    #[error("{}:{line}: longer than {max} bytes", file.display())]
    TooLong {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The bound.
        max: usize,
    },
    /// The file has no samples.
    #[error("{}: no samples", file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
}

/// A value of a file and the number of its line, counted from 1.
pub(crate) struct Line<T> {
    pub(crate) number: usize,
    pub(crate) value: T,
}

/// Reads values one by one; empty lines are skipped. Memory is one line and its value.
pub(crate) struct Lines<R> {
    file: PathBuf,
    input: R,
    number: usize,
    expected: &'static str,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// `file` and `expected` are for errors.
    pub(crate) fn new(file: &Path, input: R, expected: &'static str) -> Lines<R> {
        Lines {
            file: file.to_owned(),
            input,
            number: 0,
            expected,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Line<T>>, LineError> {
        let (file, expected) = (self.file.clone(), self.expected);
        let Some(line) = self.next_bytes()? else {
            return Ok(None);
        };
        let number = line.number;
        match serde_json::from_slice(line.value) {
            Ok(value) => Ok(Some(Line { number, value })),
            Err(source) => Err(LineError::Broken {
                file,
                line: number,
                expected,
                source,
            }),
        }
    }

    /// The next line as it is, with its end.
    pub(crate) fn next_bytes(&mut self) -> Result<Option<Line<&[u8]>>, LineError> {
        loop {
            self.bytes.clear();
            self.number += 1;
            let mut bounded = self.input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut self.bytes);
            let count = read.map_err(|source| LineError::Read {
                file: self.file.clone(),
                source,
            })?;
            if count == 0 {
                return Ok(None);
            }
            if count > LINE_BYTES_MAX {
                return Err(LineError::TooLong {
                    file: self.file.clone(),
                    line: self.number,
                    max: LINE_BYTES_MAX,
                });
            }
            if !self.bytes.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        Ok(Some(Line {
            number: self.number,
            value: &self.bytes,
        }))
    }
}

pub(crate) fn open(file: &Path) -> Result<io::BufReader<std::fs::File>, LineError> {
    std::fs::File::open(file)
        .map(io::BufReader::new)
        .map_err(|source| LineError::Read {
            file: file.to_owned(),
            source,
        })
}

/// The beginning of what a field holds, for an error.
pub(crate) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_refused_at_the_bound() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let mut lines = Lines::new(Path::new("endless"), endless, "anything");
        let refusal = lines.next::<serde_json::Value>().map(|_| ()).unwrap_err();
        assert!(matches!(refusal, LineError::TooLong { line: 1, .. }));
    }

    #[test]
    fn the_last_line_may_lack_its_end() {
        let mut lines = Lines::new(Path::new("x"), &b"1\n\n2"[..], "a number");
        let mut found = Vec::new();
        while let Some(line) = lines.next::<u8>().unwrap() {
            found.push((line.number, line.value));
        }
        assert_eq!(found, [(1, 1), (3, 2)]);
    }
}
