//! How evenly something is spread over workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::Member;

/// What the most and the least loaded worker have, and the mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    max: u64,
    min: u64,
    mean: f64,
}

impl Spread {
    pub(super) fn of(amounts: impl IntoIterator<Item = u64>) -> Self {
        let (mut max, mut min, mut sum, mut count) = (0, u64::MAX, 0, 0u32);
        for amount in amounts {
            (max, min) = (amount.max(max), amount.min(min));
            (sum, count) = (sum + amount, count + 1);
        }
        Self {
            max,
            min,
            mean: sum as f64 / f64::from(count.max(1)),
        }
    }

    pub(super) fn max_over_mean(self) -> f64 {
        self.max as f64 / self.mean.max(1.0)
    }

    pub(super) fn min_over_mean(self) -> f64 {
        self.min as f64 / self.mean.max(1.0)
    }
}

/// Looks at what waits, many times a second.
pub(super) struct Watching {
    task: AbortOnDropHandle<()>,
    seen: Arc<std::sync::Mutex<Vec<f64>>>,
}

/// What was seen, in ascending order.
pub(super) struct Seen(Vec<f64>);

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Watching {
    pub(super) fn begin(members: &[Member]) -> Self {
        let members = members.iter();
        let queued: Vec<Arc<AtomicU64>> = members
            .map(|member| Arc::clone(&member.watch.queued_tokens))
            .collect();
        let seen = Arc::<std::sync::Mutex<Vec<f64>>>::default();
        let looks = Arc::clone(&seen);
        let task: JoinHandle<()> = tokio::spawn(async move {
            let mut ticks = interval(LOOK_EVERY);
            loop {
                ticks.tick().await;
                let amounts = queued.iter().map(|queued| queued.load(Ordering::Relaxed));
                let spread = Spread::of(amounts);
                if spread.mean >= 1.0 {
                    let mut looks = looks
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    looks.push(spread.max_over_mean());
                }
            }
        });
        Self {
            task: AbortOnDropHandle::new(task),
            seen,
        }
    }

    pub(super) fn end(self) -> Seen {
        drop(self.task);
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut seen = std::mem::take(&mut *seen);
        seen.sort_by(f64::total_cmp);
        Seen(seen)
    }
}

impl Seen {
    /// 0 if nothing was seen.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_compares_with_the_mean() {
        let spread = Spread::of([10, 20, 30]);
        assert_eq!((spread.max_over_mean(), spread.min_over_mean()), (1.5, 0.5));
        assert_eq!(Spread::of([0, 0]).max_over_mean(), 0.0);
        assert_eq!(Seen((0..101).map(f64::from).collect()).percentile(99), 99.0);
        assert_eq!(Seen(Vec::new()).percentile(99), 0.0);
    }
}
