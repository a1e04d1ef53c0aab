//! What a worker was given lately.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens, each halved for every minute since it came, so that all who ask see the same whenever they do.
#[derive(Clone, Copy, Debug)]
pub struct RecentTokens {
    sum: f64,
    at: Instant,
}

const HALVED_AFTER: Duration = Duration::from_secs(60);

impl RecentTokens {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { sum: 0.0, at: now }
    }

    /// More have come.
    pub fn add(&mut self, tokens: usize, now: Instant) {
        self.sum = self.sum_at(now) + tokens as f64;
        self.at = self.at.max(now);
    }

    /// What is left of them.
    pub fn get(&self, now: Instant) -> u64 {
        self.sum_at(now).round() as u64
    }

    fn sum_at(&self, now: Instant) -> f64 {
        let halvings = now.duration_since(self.at).as_secs_f64() / HALVED_AFTER.as_secs_f64();
        self.sum * (-halvings).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_halved_for_every_minute() {
        let start = Instant::now();
        let mut recent = RecentTokens::new(start);
        recent.add(1000, start);
        recent.add(500, start + HALVED_AFTER);
        assert_eq!(recent.get(start + HALVED_AFTER), 1000);
        assert_eq!(recent.get(start + 3 * HALVED_AFTER), 250);
        assert_eq!(recent.get(start + Duration::from_secs(1_000_000_000)), 0);
    }
}
