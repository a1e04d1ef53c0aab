//! Circuit breakers: a worker whose call broke is left alone until a probe says that it is still there, and one
//! that answers probes while its calls break, time after time, for a while; then it is tried with one request.

use std::collections::BTreeMap;

use lava_node::Backoff;
use tokio::time::Instant;

use crate::snapshot::WorkerId;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Breaking {
    /// Broken calls in a row that open it, at least 1.
    pub(crate) failures: u32,
    /// How long it stays open, longer each time that its trial breaks too.
    pub(crate) pause: Backoff,
}

/// The breakers of all workers whose last call broke.
#[derive(Debug)]
pub(crate) struct Breakers {
    rule: Breaking,
    workers: BTreeMap<WorkerId, Breaker>,
    /// A call broke, and how many probes had begun by then. Where many die together, the first call to each
    /// says so, and the others need not find out for themselves.
    suspects: BTreeMap<WorkerId, u64>,
}

#[derive(Debug, Default)]
struct Breaker {
    /// Broken calls since the last good one.
    failures: u32,
    /// How often it has opened since then.
    openings: u32,
    /// No request before.
    open_until: Option<Instant>,
}

impl Breakers {
    pub(crate) fn new(rule: Breaking) -> Breakers {
        assert!(rule.failures > 0);
        Breakers {
            rule,
            workers: BTreeMap::new(),
            suspects: BTreeMap::new(),
        }
    }

    /// A call broke, after so many probes had begun.
    pub(crate) fn suspect(&mut self, worker: &WorkerId, probes: u64) {
        self.suspects.insert(worker.clone(), probes);
    }

    /// A worker answered this probe.
    pub(crate) fn answered(&mut self, worker: &WorkerId, probe: u64) {
        if self
            .suspects
            .get(worker)
            .is_some_and(|&probes| probes < probe)
        {
            self.suspects.remove(worker);
        }
    }

    /// A call broke. Says whether this opened the breaker; `random` spreads how long.
    pub(crate) fn broke(&mut self, worker: &WorkerId, now: Instant, random: u64) -> bool {
        let breaker = self.workers.entry(worker.clone()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        // Calls that were under way when it opened break too, and say nothing new.
        if breaker.failures < self.rule.failures || breaker.is_open(now) {
            return false;
        }
        breaker.openings = breaker.openings.saturating_add(1);
        let pause = self.rule.pause.pause(breaker.openings, random);
        breaker.open_until = Some(now + pause);
        true
    }

    /// A call did what it should.
    pub(crate) fn held(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
    }

    /// Whether requests had better go elsewhere.
    pub(crate) fn is_open(&self, worker: &WorkerId, now: Instant) -> bool {
        let breaker = self.workers.get(worker);
        self.suspects.contains_key(worker) || breaker.is_some_and(|breaker| breaker.is_open(now))
    }

    /// A request goes to this worker. If that is the trial after a pause, no other follows until it has
    /// ended well, or as long again has passed.
    pub(crate) fn chosen(&mut self, worker: &WorkerId, now: Instant) {
        if let Some(breaker) = self.workers.get_mut(worker)
            && breaker.open_until.is_some_and(|until| until <= now)
        {
            let longest = self.rule.pause.pause(breaker.openings, u64::MAX);
            breaker.open_until = Some(now + longest);
        }
    }

    /// Forgets workers that are gone.
    pub(crate) fn forget_gone(&mut self, is_known: impl Fn(&WorkerId) -> bool) {
        self.workers.retain(|worker, _| is_known(worker));
        self.suspects.retain(|worker, _| is_known(worker));
    }
}

impl Breaker {
    fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::snapshot::samples::id;

    const SECOND: Duration = Duration::from_secs(1);

    fn breakers() -> Breakers {
        Breakers::new(Breaking {
            failures: 3,
            pause: Backoff {
                first: SECOND,
                most: 4 * SECOND,
            },
        })
    }

    #[test]
    fn it_opens_after_some_failures_in_a_row_and_not_before() {
        let (mut breakers, d, now) = (breakers(), id("d"), Instant::now());
        assert!(!breakers.broke(&d, now, 0) && !breakers.broke(&d, now, 0));
        breakers.held(&d);
        assert!(!breakers.broke(&d, now, 0) && !breakers.broke(&d, now, 0));
        assert!(!breakers.is_open(&d, now));
        assert!(breakers.broke(&d, now, u64::MAX));
        assert!(breakers.is_open(&d, now) && !breakers.is_open(&id("e"), now));
        assert!(!breakers.is_open(&d, now + SECOND));
        breakers.forget_gone(|_| false);
        assert!(!breakers.is_open(&d, now));
    }

    #[test]
    fn a_suspect_is_left_alone_until_it_answers_a_probe_that_began_later() {
        let (mut breakers, d, now) = (breakers(), id("d"), Instant::now());
        breakers.suspect(&d, 7);
        breakers.held(&d);
        assert!(breakers.is_open(&d, now) && !breakers.is_open(&id("e"), now));
        breakers.answered(&d, 7);
        assert!(breakers.is_open(&d, now), "that answer may be older");
        breakers.answered(&d, 8);
        assert!(!breakers.is_open(&d, now));
        breakers.suspect(&d, 9);
        breakers.forget_gone(|_| false);
        assert!(!breakers.is_open(&d, now));
    }

    #[test]
    fn after_the_pause_one_request_tries_it() {
        let (mut breakers, d, start) = (breakers(), id("d"), Instant::now());
        for _ in 0..3 {
            breakers.broke(&d, start, u64::MAX);
        }
        assert!(!breakers.broke(&d, start, u64::MAX), "it was open already");
        let later = start + SECOND;
        breakers.chosen(&d, later);
        assert!(breakers.is_open(&d, later), "its trial is under way");
        assert!(
            !breakers.is_open(&d, later + SECOND),
            "its trial was never heard of"
        );
        // The next trial breaks: twice as long.
        let later = later + SECOND;
        assert!(breakers.broke(&d, later, u64::MAX));
        assert!(breakers.is_open(&d, later + SECOND));
        assert!(!breakers.is_open(&d, later + 2 * SECOND));
        breakers.chosen(&d, later + 2 * SECOND);
        breakers.held(&d);
        assert!(!breakers.is_open(&d, later + 2 * SECOND));
    }
}
