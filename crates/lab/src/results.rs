//! The file that a run writes: JSON lines, a header and then one record per sample, policy and
//! budget. A run that was killed goes on where it was; a run with other settings is refused.

mod header;
mod record;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

pub use header::{Difference, FORMAT, Header};
pub use record::{Key, Record};

/// The longest line, so that a record that cannot be read back is not written.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Why a file of results cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The system refuses: permissions, a full disk, a missing folder.
    #[error("{}: {doing}", file.display())]
    System {
        /// Which file.
        file: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Another run writes to the file.
    #[error("{}: another run writes to it", file.display())]
    Busy {
        /// Which file.
        file: PathBuf,
    },
    /// The file belongs to a run with other settings. Take another file, or the same settings.
    #[error("{} belongs to another run: {}", file.display(), list(differences))]
    OtherRun {
        /// Which file.
        file: PathBuf,
        /// Every setting that differs.
        differences: Vec<Difference>,
    },
    /// A whole line is damaged. Only the last one may be cut off.
    #[error("{}:{line}: no {expected}: {source}", file.display())]
    Broken {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Header or record.
        expected: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Two lines answer the same.
    #[error("{}:{line}: {key} is on line {first} already", file.display())]
    Twice {
        /// Which file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The earlier line.
        first: usize,
        /// What both answer.
        key: Box<Key>,
    },
    /// The record answers what is answered; ask [`Results::is_done`] first.
    #[error("{}: {key} is done", file.display())]
    Done {
        /// Which file.
        file: PathBuf,
        /// What was answered twice.
        key: Box<Key>,
    },
    /// The record has a number that is not finite, which JSON cannot hold; a fault of the caller.
    #[error("{field} of {key} is {found}, expected a finite number")]
    NotFinite {
        /// Of the record.
        key: Box<Key>,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: f64,
    },
    /// A line is longer than [`LINE_BYTES_MAX`]; shorten the kept output.
    #[error("{}: a line has {found} bytes, at most {max} are written", file.display())]
    TooLong {
        /// Which file.
        file: PathBuf,
        /// Its length.
        found: usize,
        /// The bound.
        max: usize,
    },
}

fn list(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(Difference::to_string).collect();
    lines.join("; ")
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// None if the file is empty or its header is cut off.
    pub header: Option<Header>,
    /// In the order of the file.
    pub records: Vec<Record>,
    /// Bytes of whole lines; what lies behind was cut off in the middle of a write.
    whole_bytes: u64,
}

/// Reads a file that a run wrote, or is writing.
///
/// # Errors
/// The file cannot be read, or a line other than a cut off last one is damaged.
pub fn read(file: &Path) -> Result<Contents, Error> {
    let mut bytes = Vec::new();
    let mut input = File::open(file).map_err(system(file, "cannot be opened"))?;
    input
        .read_to_end(&mut bytes)
        .map_err(system(file, "cannot be read"))?;
    parse(file, &bytes)
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Contents, Error> {
    let whole = bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let mut contents = Contents {
        header: None,
        records: Vec::new(),
        whole_bytes: whole as u64,
    };
    let mut seen: HashMap<Key, usize> = HashMap::new();
    if whole == 0 && !bytes.is_empty() {
        // Only a header that was cut off may be written over: a file of somebody else's is not.
        match serde_json::from_slice::<Header>(bytes) {
            Err(source) if !source.is_eof() => {
                return Err(Error::Broken {
                    file: file.to_owned(),
                    line: 1,
                    expected: "header",
                    source,
                });
            }
            _ => {}
        }
    }
    let lines = bytes[..whole].split_inclusive(|&byte| byte == b'\n');
    for (index, text) in lines.enumerate() {
        let line = index + 1;
        let broken = |expected| {
            move |source| Error::Broken {
                file: file.to_owned(),
                line,
                expected,
                source,
            }
        };
        if index == 0 {
            contents.header = Some(serde_json::from_slice(text).map_err(broken("header"))?);
            continue;
        }
        let record: Record = serde_json::from_slice(text).map_err(broken("record"))?;
        if let Some(first) = seen.insert(record.key(), line) {
            return Err(Error::Twice {
                file: file.to_owned(),
                line,
                first,
                key: Box::new(record.key()),
            });
        }
        contents.records.push(record);
    }
    Ok(contents)
}

/// A file that a run appends to. It is locked against a second run until it is dropped.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    end: u64,
    done: HashSet<Key>,
}

impl Results {
    /// Opens a file, or makes it, and gives what is done already. A cut off last line is removed;
    /// its sample is not done.
    ///
    /// # Errors
    /// As [`read`]; or the file belongs to a run with other settings, or another run has it open.
    pub fn open(path: &Path, header: &Header) -> Result<(Results, Vec<Record>), Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(system(path, "cannot be opened"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Busy {
                file: path.to_owned(),
            },
            TryLockError::Error(source) => system(path, "cannot be locked")(source),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(system(path, "cannot be read"))?;
        let contents = parse(path, &bytes)?;
        if let Some(found) = &contents.header {
            let differences = found.differences(header);
            if !differences.is_empty() {
                return Err(Error::OtherRun {
                    file: path.to_owned(),
                    differences,
                });
            }
        }
        let mut results = Results {
            path: path.to_owned(),
            file,
            end: contents.whole_bytes,
            done: contents.records.iter().map(Record::key).collect(),
        };
        results.cut().map_err(system(path, "cannot be cut"))?;
        if contents.header.is_none() {
            results.write_line(header)?;
        }
        Ok((results, contents.records))
    }

    /// Whether this question is answered already, in this run or before.
    pub fn is_done(&self, key: &Key) -> bool {
        self.done.contains(key)
    }

    /// Writes a record at once. It outlives the process, but nothing waits for the disk. After an
    /// error the file is as before.
    ///
    /// # Errors
    /// The record cannot be written, cannot be held by JSON, or answers what is answered.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let key = record.key();
        if let Some((field, found)) = record.not_finite() {
            let key = Box::new(key);
            return Err(Error::NotFinite { key, field, found });
        }
        if self.is_done(&key) {
            return Err(Error::Done {
                file: self.path.clone(),
                key: Box::new(key),
            });
        }
        self.write_line(record)?;
        self.done.insert(key);
        Ok(())
    }

    fn write_line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let encoded = serde_json::to_vec(value).map_err(io::Error::from);
        let mut line = encoded.map_err(system(&self.path, "cannot be written"))?;
        line.push(b'\n');
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::TooLong {
                file: self.path.clone(),
                found: line.len(),
                max: LINE_BYTES_MAX,
            });
        }
        if let Err(source) = self.file.write_all(&line) {
            // A part may be there, and the next line must not continue it. If this fails too, the
            // file ends in a cut off line, which the next run removes.
            let _ = self.cut();
            return Err(system(&self.path, "cannot be written")(source));
        }
        self.end += line.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end)).map(|_| ())
    }
}

fn system(file: &Path, doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System {
        file: file.to_owned(),
        doing,
        source,
    }
}
