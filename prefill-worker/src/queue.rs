//! Who may wait for the engine, and the line that they wait in.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lava_node::Held;
use lava_worker::{RecentTokens, Refusal, Stage};
use tokio::time::Instant;

use crate::config::PrefillSection;
use crate::job::Job;
use crate::metrics::Counters;

/// The line and its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    requests_max: usize,
    tokens_max: usize,
    inner: Arc<Inner>,
    counters: Counters,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// A job came, or the queue was closed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Places that are taken, and tokens of their prompts that were not kept already.
    requests: usize,
    tokens: usize,
    /// Those that came lately.
    recent: RecentTokens,
    waiting: VecDeque<Job>,
    closed: bool,
}

/// A place in the queue and on the engine; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    tokens: usize,
    inner: Arc<Inner>,
    _shown: (Held, Held),
}

/// Closes the queue when dropped: who waits is refused, and so is who comes.
#[derive(Debug)]
pub(crate) struct Closing {
    queue: Queue,
}

impl Queue {
    pub(crate) fn new(section: &PrefillSection, counters: Counters) -> Self {
        Self {
            requests_max: section.queue_max,
            tokens_max: section.queue_tokens_max,
            inner: Arc::new(Inner {
                state: Mutex::new(State {
                    requests: 0,
                    tokens: 0,
                    recent: RecentTokens::new(Instant::now()),
                    waiting: VecDeque::new(),
                    closed: false,
                }),
                changed: Condvar::new(),
            }),
            counters,
        }
    }

    /// A place for a prompt of which `tokens` tokens are to be computed.
    ///
    /// # Errors
    /// `Full`: one of the bounds is reached.
    pub(crate) fn enter(&self, tokens: usize) -> Result<Place, Refusal> {
        self.dismiss_ended();
        let mut state = self.inner.state();
        let full = |what, found: usize, most: usize| Refusal::Full {
            what,
            found: found as u64,
            most: most as u64,
        };
        if state.requests == self.requests_max {
            let found = state.requests + 1;
            return Err(full(
                "requests in the prefill queue",
                found,
                self.requests_max,
            ));
        }
        // A prompt above the bound is let in alone: the model's context is its own bound.
        if state.requests > 0 && state.tokens + tokens > self.tokens_max {
            let found = state.tokens + tokens;
            return Err(full(
                "prompt tokens in the prefill queue",
                found,
                self.tokens_max,
            ));
        }
        state.requests += 1;
        state.tokens += tokens;
        state.recent.add(tokens, Instant::now());
        Ok(Place {
            tokens,
            inner: Arc::clone(&self.inner),
            _shown: (
                Held::new(self.counters.queue.clone(), 1),
                Held::new(self.counters.queue_tokens.clone(), tokens as i64),
            ),
        })
    }

    /// Lets a job that has a place wait for its turn.
    ///
    /// # Errors
    /// `Stopped`: the queue is closed.
    pub(crate) fn push(&self, job: Job) -> Result<(), Refusal> {
        let mut state = self.inner.state();
        if state.closed {
            // Its place is given back, which needs the lock.
            drop(state);
            drop(job);
            return Err(stopped());
        }
        state.waiting.push_back(job);
        self.inner.changed.notify_one();
        Ok(())
    }

    /// Waits for the next job; `None` once the queue is closed.
    pub(crate) fn pop(&self) -> Option<Job> {
        let mut state = self.inner.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            let woken = self.inner.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next job if it waits already and `fits`.
    pub(crate) fn pop_if(&self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut state = self.inner.state();
        if !fits(state.waiting.front()?) {
            return None;
        }
        state.waiting.pop_front()
    }

    /// Requests and prompt tokens that wait or run, and tokens that came lately.
    pub(crate) fn load(&self) -> (usize, usize, u64) {
        self.dismiss_ended();
        let state = self.inner.state();
        (
            state.requests,
            state.tokens,
            state.recent.get(Instant::now()),
        )
    }

    /// What closes the queue.
    pub(crate) fn closing(&self) -> Closing {
        let queue = self.clone();
        Closing { queue }
    }

    /// Ends what waits for nothing, so that it stands in nobody's way until its turn.
    fn dismiss_ended(&self) {
        let mut ended = Vec::new();
        {
            let mut state = self.inner.state();
            for job in std::mem::take(&mut state.waiting) {
                match job.ended(Stage::Queue) {
                    Some(refusal) => ended.push((job, refusal)),
                    None => state.waiting.push_back(job),
                }
            }
        }
        // Their places are given back, which needs the lock.
        for (job, refusal) in ended {
            job.fail(&self.counters, refusal);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.requests -= 1;
        state.tokens -= self.tokens;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.queue.inner.state();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.queue.inner.changed.notify_all();
        for job in waiting {
            job.fail(&self.queue.counters, stopped());
        }
    }
}

fn stopped() -> Refusal {
    Refusal::Stopped { part: "engine" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lava_engine::PagePool;
    use lava_node::Metrics;

    #[test]
    fn the_queue_has_two_bounds_and_places_come_back_by_drop() {
        let section = PrefillSection {
            queue_max: 3,
            queue_tokens_max: 100,
            ..Default::default()
        };
        let counters = Counters::register(
            &mut Metrics::new(),
            PagePool::new(64, 1),
            std::sync::Arc::default(),
        );
        let queue = Queue::new(&section, counters.clone());
        let a = queue.enter(500).unwrap();
        let refused = queue.enter(1).unwrap_err().to_string();
        expect_test::expect![
            "prompt tokens in the prefill queue: 501, at most 100; try another worker or later"
        ]
        .assert_eq(&refused);
        drop(a);
        let places: Vec<Place> = (0..3).map(|_| queue.enter(30).unwrap()).collect();
        let refused = queue.enter(1).unwrap_err().to_string();
        expect_test::expect![
            "requests in the prefill queue: 4, at most 3; try another worker or later"
        ]
        .assert_eq(&refused);
        let load = || (queue.load().0, queue.load().1);
        assert_eq!((load(), counters.queue_tokens.get()), ((3, 90), 90));
        drop(places);
        assert_eq!((load(), counters.queue.get()), ((0, 0), 0));
        assert!((585..=590).contains(&queue.load().2), "what came lately");
    }
}
