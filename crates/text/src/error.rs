//! What can go wrong with text, and where.

use std::path::PathBuf;

/// A tokenizer, template or stop string that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A JSON file is broken.
    #[error("{} is not valid JSON", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// Text files from another process are broken.
    #[error("the text files of a model cannot be read from their bytes")]
    Bytes(#[source] serde_json::Error),
    /// The GGUF container is broken or lacks a key.
    #[error(transparent)]
    Gguf(#[from] lava_gguf::GgufError),
    /// The vocabulary, its merges or its rules contradict each other.
    #[error("{}: the tokenizer cannot be built: {reason}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// The tokenizer library's own words.
        reason: String,
    },
    /// A GGUF file asks for a tokenizer that is not implemented.
    #[error("{}: {key} is {found:?}, expected one of {known}", file.display())]
    UnknownTokenizer {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The implemented ones.
        known: &'static str,
    },
    /// A text could not be encoded.
    #[error("the text cannot be tokenized: {reason}")]
    Encode {
        /// The tokenizer library's own words.
        reason: String,
    },
    /// The chat template is broken, or it refused the messages.
    #[error("the chat template failed: {reason}")]
    Template {
        /// Message and line of the template engine.
        reason: String,
    },
    /// The model has no chat template.
    #[error("this model has no chat template; give the prompt as plain text")]
    NoTemplate,
    /// A message of nobody that a template knows.
    #[error("the role of message {index} is not one of {known}")]
    UnknownRole {
        /// The message's index.
        index: usize,
        /// The known roles.
        known: &'static str,
    },
    /// A chat with every character that could stand in for markers.
    #[error("the messages leave no private-use character unused")]
    NoStandIn,
    /// Markers that the template did not write and that could not be told from text.
    #[error(
        "the prompt has {found} markers, but its template wrote {expected}: a message's text became one"
    )]
    ForgedMarkers {
        /// Markers among the ids.
        found: usize,
        /// Markers that the template wrote.
        expected: usize,
    },
    /// Too many stop strings.
    #[error("{found} stop strings, expected at most {max}")]
    TooManyStops {
        /// How many were given.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A stop string that is empty or too long.
    #[error("stop string {index} has {found} bytes, expected 1 to {max}")]
    StopLength {
        /// Its index.
        index: usize,
        /// Its length in bytes.
        found: usize,
        /// The limit.
        max: usize,
    },
}
