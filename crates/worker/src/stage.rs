//! Where in a worker a request is.

use std::fmt;

/// A stage of a request's life in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// In the prefill worker's queue.
    Queue,
    /// In the engine, its first rows perhaps on their way.
    Prefill,
    /// A decode worker's reservation waits for its transfer.
    Reserved,
    /// Its cache is being shipped or received.
    Transfer,
    /// In the batch.
    Decode,
}

impl Stage {
    /// The stage as a metric's label has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Reserved => "reserved",
            Self::Transfer => "transfer",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Stage {
    /// Ends a sentence such as "the deadline passed".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "in the prefill queue",
            Self::Prefill => "in prefill",
            Self::Reserved => "before its cache came",
            Self::Transfer => "while its cache was shipped",
            Self::Decode => "in decode",
        })
    }
}
