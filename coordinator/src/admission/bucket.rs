//! A store of tokens that fills at a steady rate: what a tenant may spend.

use std::time::Duration;

/// A millionth of a token: what a rate of one per second gives in a microsecond.
const TOKEN: u128 = 1_000_000;

/// How a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Tokens that it gains per second, at least 1.
    pub(crate) per_second: u64,
    /// Tokens that it holds at most, at least 1.
    pub(crate) burst: u64,
}

/// Tokens in store. Times are those since some beginning, and never run back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Millionths of tokens.
    level: u128,
    filled_at: Duration,
}

/// Why a cost was not taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// So much time has to pass first, if nobody else takes anything meanwhile.
    For(Duration),
    /// It is more than the bucket ever holds.
    Forever,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate, now: Duration) -> Bucket {
        assert!(rate.per_second > 0 && rate.burst > 0);
        Bucket {
            rate,
            level: most(rate),
            filled_at: now,
        }
    }

    /// How it fills.
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a cost out, all of it or nothing.
    ///
    /// # Errors
    /// Too little is in store.
    pub(crate) fn take(&mut self, cost: u64, now: Duration) -> Result<(), Short> {
        if cost > self.rate.burst {
            return Err(Short::Forever);
        }
        self.fill(now);
        let cost = u128::from(cost) * TOKEN;
        if let Some(left) = self.level.checked_sub(cost) {
            self.level = left;
            return Ok(());
        }
        let micros = (cost - self.level).div_ceil(self.rate.per_second.into());
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        Err(Short::For(Duration::from_micros(micros)))
    }

    /// Puts back what was taken out and not used.
    pub(crate) fn give_back(&mut self, tokens: u64, now: Duration) {
        // First what time gave, so that what would not fit is lost now and not later.
        self.fill(now);
        let level = self.level + u128::from(tokens) * TOKEN;
        self.level = level.min(most(self.rate));
    }

    /// Whether it holds as much as a new one.
    pub(crate) fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.level == most(self.rate)
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_micros();
        let gained = passed.saturating_mul(self.rate.per_second.into());
        self.level = self.level.saturating_add(gained).min(most(self.rate));
        self.filled_at = self.filled_at.max(now);
    }
}

fn most(rate: Rate) -> u128 {
    u128::from(rate.burst) * TOKEN
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        per_second: 100,
        burst: 1000,
    };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(RATE, at(0));
        assert_eq!(bucket.take(1000, at(0)), Ok(()));
        assert_eq!(bucket.take(50, at(0)), Err(Short::For(at(500))));
        assert_eq!(bucket.take(50, at(499)), Err(Short::For(at(1))));
        assert_eq!(bucket.take(50, at(500)), Ok(()));
        assert!(!bucket.is_full(at(10_499)));
        assert!(bucket.is_full(at(10_500)));
    }

    #[test]
    fn what_is_more_than_a_burst_never_passes() {
        let mut bucket = Bucket::new(RATE, at(0));
        assert_eq!(bucket.take(1001, at(0)), Err(Short::Forever));
        assert_eq!(bucket.take(u64::MAX, at(0)), Err(Short::Forever));
        assert_eq!(bucket.take(1000, at(0)), Ok(()));
    }

    #[test]
    fn what_is_given_back_can_be_spent_and_does_not_overflow_the_burst() {
        let mut bucket = Bucket::new(RATE, at(0));
        bucket.take(600, at(0)).unwrap();
        bucket.give_back(200, at(0));
        assert_eq!(bucket.take(601, at(0)), Err(Short::For(at(10))));
        bucket.give_back(u64::MAX, at(0));
        assert!(bucket.is_full(at(0)));
    }

    proptest! {
        /// In no span of time does more pass than the burst and what the rate gives in it, and whoever
        /// waits as long as he is told passes.
        #[test]
        fn no_more_passes_than_the_rate_and_the_burst_allow(
            asks in vec((0..400u64, 0..1200u64), 1..60),
        ) {
            let mut bucket = Bucket::new(RATE, at(0));
            let (mut now, mut passed) = (0, Vec::new());
            for (pause, cost) in asks {
                now += pause;
                match bucket.take(cost, at(now)) {
                    Ok(()) => passed.push((now, cost)),
                    Err(Short::Forever) => prop_assert!(cost > RATE.burst),
                    Err(Short::For(wait)) => {
                        let just_before = wait - Duration::from_micros(1);
                        prop_assert!(bucket.clone().take(cost, at(now) + just_before).is_err());
                        prop_assert_eq!(bucket.clone().take(cost, at(now) + wait), Ok(()));
                    }
                }
            }
            for (index, (begin, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end, cost) in &passed[index..] {
                    sum += cost;
                    prop_assert!(sum <= RATE.burst + RATE.per_second * (end - begin) / 1000);
                }
            }
        }
    }
}
