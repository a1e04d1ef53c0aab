//! Who may wait for the engine.

use std::sync::{Arc, Mutex, PoisonError};

use lava_kv::Ticket;
use lava_node::Held;
use lava_proto::worker::PrefillEvent;
use lava_transfer::Link;
use lava_worker::{Attempt, Refusal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use crate::config::PrefillSection;
use crate::metrics::Counters;

/// Where a request's events go. At most a token and one ending are sent, so there is always room.
pub(crate) type Events = mpsc::Sender<Result<PrefillEvent, Status>>;

/// Events of one request.
pub(crate) const EVENTS_MAX: usize = 4;

/// A request in the queue.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) attempt: Attempt,
    pub(crate) prompt: Vec<u32>,
    pub(crate) ticket: Ticket,
    pub(crate) link: Link,
    pub(crate) events: Events,
    pub(crate) queued: Instant,
    pub(crate) place: Place,
    pub(crate) span: tracing::Span,
}

/// The bounds of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    requests_max: usize,
    tokens_max: usize,
    taken: Arc<Mutex<Taken>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Taken {
    requests: usize,
    tokens: usize,
}

/// A place in the queue and on the engine; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    tokens: usize,
    taken: Arc<Mutex<Taken>>,
    _shown: (Held, Held),
}

impl Queue {
    pub(crate) fn new(section: &PrefillSection, counters: Counters) -> Self {
        Self {
            requests_max: section.queue_max,
            tokens_max: section.queue_tokens_max,
            taken: Arc::default(),
            counters,
        }
    }

    /// A place for a prompt of `tokens` tokens.
    ///
    /// # Errors
    /// `Full`: one of the bounds is reached.
    pub(crate) fn enter(&self, tokens: usize) -> Result<Place, Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |what, found: usize, most: usize| Refusal::Full {
            what,
            found: found as u64,
            most: most as u64,
        };
        if taken.requests == self.requests_max {
            let found = taken.requests + 1;
            return Err(full(
                "requests in the prefill queue",
                found,
                self.requests_max,
            ));
        }
        // A prompt above the bound is let in alone: the model's context is its own bound.
        if taken.requests > 0 && taken.tokens + tokens > self.tokens_max {
            let found = taken.tokens + tokens;
            return Err(full(
                "prompt tokens in the prefill queue",
                found,
                self.tokens_max,
            ));
        }
        taken.requests += 1;
        taken.tokens += tokens;
        Ok(Place {
            tokens,
            taken: Arc::clone(&self.taken),
            _shown: (
                Held::new(self.counters.queue.clone(), 1),
                Held::new(self.counters.queue_tokens.clone(), tokens as i64),
            ),
        })
    }

    /// Requests and prompt tokens that wait or run.
    pub(crate) fn load(&self) -> (usize, usize) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        (taken.requests, taken.tokens)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.requests -= 1;
        taken.tokens -= self.tokens;
    }
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
        let counters = Counters::register(&mut Metrics::new(), PagePool::new(64, 1));
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
        assert_eq!((queue.load(), counters.queue_tokens.get()), ((3, 90), 90));
        drop(places);
        assert_eq!((queue.load(), counters.queue.get()), ((0, 0), 0));
    }
}
