//! One thing to ask, and which suite of them a run asks.

mod data;
mod suite;
mod task;

pub use data::{DataError, read_data};
pub use suite::{Reader, Suite, SuiteError, Text};
pub use task::{Task, UnknownTask};

use crate::Sample;

/// Tokens of a right answer that a teacher uses; summaries go on for hundreds.
pub(crate) const TRUTH_TOKENS_MAX: usize = 64;

/// One question of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The task's name.
    pub task: String,
    /// Unique within the task and the same on every run.
    pub id: String,
    /// What is asked.
    pub body: Body,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A prompt that has answers.
    Sample {
        /// With its answers.
        sample: Box<Sample>,
        /// Whether the model's chat template belongs around the prompt.
        chat: bool,
    },
    /// A text and how it goes on, in token ids.
    Text {
        /// What the model reads.
        prompt: Vec<u32>,
        /// What really follows.
        continuation: Vec<u32>,
    },
}
