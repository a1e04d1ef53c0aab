//! What happened in one run, as a digest of all of it, and what must not have happened.

use std::ops::Add;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most that is worth telling of what went wrong.
const VIOLATIONS_MAX: usize = 20;

#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Over all lines so far.
    pub(crate) digest: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: Counts,
    /// The lines themselves, where somebody wants to read them.
    lines: Option<Vec<String>>,
}

/// How requests ended, to see that a run tries what it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) answered: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    /// Of those that were answered, such that went on elsewhere.
    pub(crate) recomputed: u64,
    /// Processes that were told to end and did.
    pub(crate) drained: u64,
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts {
            answered: self.answered + other.answered,
            cancelled: self.cancelled + other.cancelled,
            failed: self.failed + other.failed,
            recomputed: self.recomputed + other.recomputed,
            drained: self.drained + other.drained,
        }
    }
}

impl Story {
    pub(crate) fn new(is_read: bool) -> Story {
        Story {
            lines: is_read.then(Vec::new),
            ..Story::default()
        }
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, at: Duration, what: &str) {
        let line = format!("{:>6} {what}", at.as_millis());
        self.digest = xxh3_64_with_seed(line.as_bytes(), self.digest);
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// Something happened that must not.
    pub(crate) fn violated(&mut self, at: Duration, what: &str) {
        self.tell(at, &format!("VIOLATION: {what}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations
                .push(format!("{} ms: {what}", at.as_millis()));
        }
    }

    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
