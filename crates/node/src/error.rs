//! What can be wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::Override;

/// The errors of configuration. The operator is at fault; none of them is transient.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {cause}", file.display())]
    Unreadable {
        /// As it was given.
        file: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The text is not TOML, or does not fit the type: an unknown key, a wrong type, a missing key.
    #[error("{}", invalid(origin, key, cause))]
    Invalid {
        /// Who says so.
        origin: Origin,
        /// The path of the key at fault; empty if that is the whole file.
        key: String,
        /// What was found and expected, and the line where there is one.
        cause: Box<toml::de::Error>,
    },
    /// The text of an override has no key, or a key with an empty part.
    #[error("the override is `{found}`, expected key=value with a key such as prefill.queue_max")]
    NotAnOverride {
        /// As it was given.
        found: String,
    },
    /// An override names a key below a value that is not a table.
    #[error("override `{given}`: `{key}` is of type {found}, expected a table")]
    NotATable {
        /// The override.
        given: Override,
        /// The part of its key that leads to the value.
        key: String,
        /// The type of the value.
        found: &'static str,
    },
    /// A value has the right type and makes no sense, by itself or beside another one. For the
    /// checks that callers do after [`load`](crate::config::load).
    #[error("`{key}` is {found}, expected {expected}")]
    Contradiction {
        /// The path of the key.
        key: String,
        /// Its value.
        found: String,
        /// What it may be, and which other key says so.
        expected: String,
    },
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File(PathBuf),
    /// An override.
    Override(Override),
    /// Neither: there is no file, and nothing overrides the default.
    Defaults,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(file) => file.display().fmt(f),
            Origin::Override(given) => write!(f, "override `{given}`"),
            Origin::Defaults => f.write_str("configuration without a file"),
        }
    }
}

fn invalid(origin: &Origin, key: &str, cause: &toml::de::Error) -> String {
    match origin {
        Origin::File(_) if key.is_empty() => format!("{origin}: {}", located(cause)),
        Origin::File(_) => format!("{origin}: `{key}`: {}", located(cause)),
        // The override's text contains the key, and its line is nowhere in the file.
        Origin::Override(_) | Origin::Defaults => format!("{origin}: {}", cause.message()),
    }
}

/// toml's own text: the line and a marker under it if the error has a place, then the message.
fn located(cause: &toml::de::Error) -> String {
    cause.to_string().trim_end().to_owned()
}
