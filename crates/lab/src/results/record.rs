//! What one policy with one budget made of one sample.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a record answers: there is one record per key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The task's name.
    pub task: String,
    /// The sample's id, unique within the task.
    pub sample: String,
    /// The policy, with the row format if it is not the usual one.
    pub policy: String,
    /// As it was asked for; None where nothing is evicted.
    pub budget: Option<String>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} with {}", self.sample, self.task, self.policy)?;
        match &self.budget {
            Some(budget) => write!(f, " at {budget}"),
            None => Ok(()),
        }
    }
}

/// One line of a file of results. Numbers that a task does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// See [`Key`].
    pub task: String,
    /// See [`Key`].
    pub sample: String,
    /// See [`Key`].
    pub policy: String,
    /// See [`Key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Bytes of the cache that prefill leaves.
    pub cache_bytes: u64,
    /// Tokens that the model read.
    pub prompt_tokens: u64,
    /// Tokens that it wrote, or was asked to predict.
    pub output_tokens: u64,
    /// The length that was asked for, in tokens: the columns of a heat map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Of the needle, 0 to 1: the rows of a heat map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
    /// The metric, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Mean negative log-likelihood of the true continuation, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Mean divergence of the next-token distribution from that of the full cache, in nats per
    /// token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Share of the true tokens that are the most likely ones, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Share of positions whose most likely token is that of the full cache, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// `[L]`: rows that each layer kept, all KV heads together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_rows: Vec<u64>,
    /// Wall time of the sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What the model said, for whoever doubts a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Record {
    /// What this record answers.
    pub fn key(&self) -> Key {
        Key {
            task: self.task.clone(),
            sample: self.sample.clone(),
            policy: self.policy.clone(),
            budget: self.budget.clone(),
        }
    }

    /// A number that JSON cannot hold.
    pub(super) fn not_finite(&self) -> Option<(&'static str, f64)> {
        let numbers = [
            ("depth", self.depth),
            ("score", self.score),
            ("nll", self.nll),
            ("kl", self.kl),
            ("accuracy", self.accuracy),
            ("top1", self.top1),
            ("seconds", self.seconds),
        ];
        let mut present = numbers
            .into_iter()
            .filter_map(|(field, value)| Some((field, value?)));
        present.find(|(_, value)| !value.is_finite())
    }
}
