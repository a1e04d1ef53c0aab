//! Questions made by seed: the same seed gives the same samples on every machine. Each task is a
//! small struct of settings with one verb, `sample`, that makes one [`Sample`](crate::Sample) for
//! one [`Ask`]; a grid of lengths and depths is a loop of the caller.
//!
//! The forms follow RULER (arXiv 2404.06654) and the needle test; words and sentences are ours,
//! so scores compare policies with each other and not with published tables.

mod ask;
mod filler;
mod kv;
mod lm;
mod needle;
mod niah;
mod variables;
mod words;

pub use ask::{Ask, Error};
pub use filler::Filler;
pub use kv::KeyValue;
pub use lm::{Cut, Window, windows};
pub use needle::Needle;
pub use niah::{Haystack, Niah, Token};
pub use variables::Variables;
pub use words::{CommonWords, FrequentWords};

/// Tokens of an answer to a RULER task, as in the LAVa paper's runs (64 for every task, where
/// RULER itself has 30 to 128).
pub const RULER_MAX_TOKENS: usize = 64;
