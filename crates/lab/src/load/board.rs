//! Who was sent and who has ended.

use std::time::Duration;

use super::record::{Outcome, Record};

/// How far a load is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests of the plan.
    pub planned: usize,
    /// Those that were sent.
    pub sent: usize,
    /// Sent and not ended.
    pub running: usize,
    /// Ended with a whole answer.
    pub answered: usize,
    /// The server was too busy.
    pub refused: usize,
    /// Ended with another status.
    pub failed: usize,
    /// Ended by their clients.
    pub left: usize,
    /// Not sent, because as many as are allowed were under way.
    pub not_sent: usize,
    /// Median time to the first token of those that are answered.
    pub first_token_p50: Option<Duration>,
}

/// The records as they come, and what they add up to.
pub(super) struct Board {
    /// In the plan's order.
    records: Vec<Record>,
    /// Ascending.
    first_tokens: Vec<Duration>,
    progress: Progress,
}

impl Board {
    pub(super) fn new(planned: usize) -> Board {
        Board {
            records: Vec::new(),
            first_tokens: Vec::new(),
            progress: Progress {
                planned,
                ..Progress::default()
            },
        }
    }

    /// The next request of the plan is not sent, or is sent and counts as cancelled until it ends.
    pub(super) fn add(&mut self, record: Record) {
        assert_eq!(
            record.index,
            self.records.len(),
            "requests start in the plan's order"
        );
        match record.outcome {
            Outcome::NotSent => self.progress.not_sent += 1,
            _ => {
                self.progress.sent += 1;
                self.progress.running += 1;
            }
        }
        self.records.push(record);
    }

    /// A request that was sent has ended.
    pub(super) fn end(&mut self, index: usize, outcome: Outcome) {
        self.progress.running -= 1;
        match &outcome {
            Outcome::Answered(answer) => {
                self.progress.answered += 1;
                let first = answer.first_token;
                let place = self.first_tokens.partition_point(|other| *other < first);
                self.first_tokens.insert(place, first);
                let middle = (self.first_tokens.len() - 1) / 2;
                self.progress.first_token_p50 = Some(self.first_tokens[middle]);
            }
            Outcome::Refused(_) => self.progress.refused += 1,
            Outcome::Failed(_) => self.progress.failed += 1,
            Outcome::Left(_) => self.progress.left += 1,
            Outcome::NotSent | Outcome::Cancelled => (),
        }
        self.records[index].outcome = outcome;
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn into_records(self) -> Vec<Record> {
        self.records
    }
}
