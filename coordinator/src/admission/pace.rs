//! How fast those who wait have been let in of late.

use std::collections::VecDeque;
use std::time::Duration;

/// Most that are looked back on.
const SAMPLES_MAX: usize = 32;

/// Fewer say nothing: the first ones after a stall come in a bunch.
const SAMPLES_MIN: usize = 4;

/// When those who wait were let in, since somebody began to wait. A line in which nobody waits has no
/// pace, so time without demand does not count as slow.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    since: Duration,
    let_in: VecDeque<Duration>,
}

impl Pace {
    /// The first one begins to wait.
    pub(crate) fn new(now: Duration) -> Pace {
        Pace {
            since: now,
            let_in: VecDeque::new(),
        }
    }

    /// One was let in.
    pub(crate) fn let_in(&mut self, now: Duration) {
        if self.let_in.len() == SAMPLES_MAX {
            self.since = self.let_in.pop_front().unwrap_or(self.since);
        }
        self.let_in.push_back(now);
    }

    /// Time until so many more will have been let in, if it goes on like this; none if too few have been
    /// for a guess.
    pub(crate) fn time_for(&self, count: usize, now: Duration) -> Option<Duration> {
        let samples = self.let_in.len();
        if samples < SAMPLES_MIN {
            return None;
        }
        let each = now.saturating_sub(self.since) / samples as u32;
        Some(each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_pace_is_that_of_late_and_slows_down_while_nobody_is_let_in() {
        let mut pace = Pace::new(at(0));
        for second in 1..=3 {
            pace.let_in(at(second));
            assert_eq!(pace.time_for(1, at(second)), None);
        }
        pace.let_in(at(4));
        assert_eq!(pace.time_for(3, at(4)), Some(at(3)));
        // Nothing has happened since.
        assert_eq!(pace.time_for(3, at(8)), Some(at(6)));
        // Ten seconds each from here on: what was long ago is forgotten.
        for index in 1..=32 {
            pace.let_in(at(4 + 10 * index));
        }
        assert_eq!(pace.time_for(2, at(324)), Some(at(20)));
    }
}
