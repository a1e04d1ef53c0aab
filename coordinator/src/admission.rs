//! Who is let in, and who waits for room: tenants' quotas and the queue, shared by all requests of a
//! process.
//!
//! The rules are plain data structures ([`Queue`], [`Quotas`]); this is the small part around them that
//! has a clock and wakes tasks. What a request holds here is a value whose drop gives it back: its count
//! as an answer ([`Entered`]), its tokens ([`Charge`]), and its place among those who wait or run
//! ([`Seat`]).

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lava_node::Held;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::CoordinatorMetrics;

// In reading order.
mod priority;

mod tenant;

mod bucket;

mod quotas;

mod crowd;

mod pace;

mod class;

mod line;

mod queue;

pub(crate) use bucket::Rate;
pub(crate) use crowd::{Crowd, Crowded};
pub(crate) use priority::Priority;
pub(crate) use queue::{Bounds, Who};
pub(crate) use quotas::{OverQuota, Quota, Quotas};
pub(crate) use tenant::Tenant;

use class::Number;
use queue::{Call, Queue};

/// Who is let in, and who waits. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    quotas: Mutex<Quotas>,
    desk: Mutex<Desk>,
    metrics: CoordinatorMetrics,
}

/// The queue, and how to reach those in it.
#[derive(Debug)]
struct Desk {
    queue: Queue,
    waiting: BTreeMap<Number, oneshot::Sender<Call>>,
}

/// Tells those who wait that a worker may have room. Clones tell the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    shared: Option<Arc<Shared>>,
}

/// Answers of a request, counted for its tenant until the drop.
#[derive(Debug)]
pub(crate) struct Entered {
    shared: Arc<Shared>,
    tenant: Tenant,
    count: u32,
}

/// What one answer may need of its tenant's tokens. The drop gives back what it did not need.
#[derive(Debug)]
pub(crate) struct Charge {
    shared: Arc<Shared>,
    tenant: Tenant,
    /// Charged, and neither used nor given back.
    tokens: u64,
}

/// An answer's place among those who wait, look for room or run; the drop gives it up.
#[derive(Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    number: Number,
    who: Arc<Who>,
    /// Resolves with the call that it waits for.
    call: Option<oneshot::Receiver<Call>>,
    waiting: Option<Waiting>,
}

/// It has not been let in yet.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    _counted: Held,
}

impl Admission {
    pub(crate) fn new(bounds: Bounds, quotas: Quotas, metrics: &CoordinatorMetrics) -> Admission {
        let desk = Desk {
            queue: Queue::new(bounds),
            waiting: BTreeMap::new(),
        };
        Admission {
            shared: Arc::new(Shared {
                began: Instant::now(),
                quotas: Mutex::new(quotas),
                desk: Mutex::new(desk),
                metrics: metrics.clone(),
            }),
        }
    }

    /// For those who see room appear.
    pub(crate) fn room(&self) -> Room {
        Room {
            shared: Some(Arc::clone(&self.shared)),
        }
    }

    /// Counts answers of a tenant.
    ///
    /// # Errors
    /// It has too many.
    pub(crate) fn enter(&self, tenant: Tenant, count: u32) -> Result<Entered, OverQuota> {
        let now = self.shared.now();
        let tenant = self.shared.quotas().enter(tenant, count, now)?;
        Ok(Entered {
            shared: Arc::clone(&self.shared),
            tenant,
            count,
        })
    }

    /// A newcomer. It may look for room at once unless [`Seat::waits`], for at most `wait_max`.
    ///
    /// # Errors
    /// It would have to wait and there is no place for it, or it would wait for too long.
    pub(crate) fn join(&self, who: Arc<Who>, wait_max: Duration) -> Result<Seat, Crowded> {
        let mut desk = self.shared.desk();
        let now = self.shared.now();
        let joined = desk.queue.join(Arc::clone(&who), wait_max, now);
        let (number, waits) = joined?;
        let mut seat = Seat {
            shared: Arc::clone(&self.shared),
            number,
            who,
            call: None,
            waiting: None,
        };
        if waits {
            seat.begin_to_wait(&mut desk);
        }
        desk.tell();
        Ok(seat)
    }
}

impl Entered {
    /// Whom they are counted for.
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Turns that it gets where others get one.
    pub(crate) fn weight(&self) -> u32 {
        self.shared.quotas().quota(&self.tenant).weight
    }

    /// Takes `cost` tokens for each of its answers.
    ///
    /// # Errors
    /// The tenant has too few, and nothing is taken.
    pub(crate) fn charge(&self, cost: u64) -> Result<Vec<Charge>, OverQuota> {
        let all = cost.saturating_mul(self.count.into());
        let now = self.shared.now();
        self.shared.quotas().take(&self.tenant, all, now)?;
        let charge = |_| Charge {
            shared: Arc::clone(&self.shared),
            tenant: self.tenant.clone(),
            tokens: cost,
        };
        Ok((0..self.count).map(charge).collect())
    }
}

impl Charge {
    /// So many of its tokens were put to use.
    pub(crate) fn used(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_sub(tokens);
    }
}

impl Seat {
    /// Whether it has to wait for [`Seat::called`].
    pub(crate) fn waits(&self) -> bool {
        self.call.is_some()
    }

    /// Resolves when it may look for room; never if it does not wait. Nothing is lost if this is dropped.
    ///
    /// # Errors
    /// Its place to wait is somebody else's.
    pub(crate) async fn called(&mut self) -> Result<(), Crowded> {
        let Some(call) = &mut self.call else {
            return pending().await;
        };
        let call = call
            .await
            .expect("the desk keeps the sender until it calls");
        self.call = None;
        match call {
            Call::Turn => Ok(()),
            Call::PushedOut(crowded) => Err(crowded),
        }
    }

    /// It is about to look.
    pub(crate) fn looks(&self) {
        self.shared.desk().queue.looks(self.number);
    }

    /// It found no room: it waits, for at most `wait_max`.
    ///
    /// # Errors
    /// There is no place for it, or it would wait for too long.
    pub(crate) fn wait(&mut self, wait_max: Duration) -> Result<(), Crowded> {
        let shared = Arc::clone(&self.shared);
        let mut desk = shared.desk();
        let waits = desk.queue.wait(self.number, wait_max, shared.now());
        if waits.is_ok() {
            self.begin_to_wait(&mut desk);
        }
        desk.tell();
        waits
    }

    /// It found room.
    pub(crate) fn let_in(&mut self) {
        self.call = None;
        let mut desk = self.shared.desk();
        desk.waiting.remove(&self.number);
        desk.queue.let_in(self.number, self.shared.now());
        desk.tell();
        drop(desk);
        if let Some(waiting) = self.waiting.take() {
            let seconds = waiting.since.elapsed().as_secs_f64();
            self.shared.metrics.wait_seconds.observe(seconds);
        }
    }

    /// It had been let in, lost its workers and found no others: it is called before all newcomers.
    pub(crate) fn wait_ahead(&mut self) {
        let mut desk = self.shared.desk();
        self.call = Some(desk.expect(self.number));
        desk.queue.wait_ahead(self.number, self.shared.now());
        desk.tell();
    }

    /// It looks again by itself, so it stands in nobody's way meanwhile.
    pub(crate) fn step_back(&mut self) {
        self.call = None;
        let mut desk = self.shared.desk();
        desk.waiting.remove(&self.number);
        desk.queue.step_back(self.number);
        desk.tell();
    }

    /// It has waited for as long as it may.
    pub(crate) fn waited_out(&self) -> Crowded {
        let waited = match &self.waiting {
            Some(waiting) => waiting.since.elapsed(),
            None => Duration::ZERO,
        };
        let retry_after = {
            let desk = self.shared.desk();
            desk.queue.waited_out(self.number, self.shared.now())
        };
        Crowded {
            why: Crowd::WaitedOut { waited },
            retry_after,
        }
    }

    fn begin_to_wait(&mut self, desk: &mut Desk) {
        self.call = Some(desk.expect(self.number));
        let gauge = self.shared.metrics.waiting(self.who.priority);
        self.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            _counted: Held::new(gauge, 1),
        });
    }
}

impl Room {
    /// A worker may have room that it had not.
    pub(crate) fn appeared(&self) {
        if let Some(shared) = &self.shared {
            let mut desk = shared.desk();
            desk.queue.room_appeared();
            desk.tell();
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    // Nothing that holds these locks panics half way, so poisoned values are whole.

    fn quotas(&self) -> MutexGuard<'_, Quotas> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// The next call of one who waits goes there.
    fn expect(&mut self, number: Number) -> oneshot::Receiver<Call> {
        let (sender, call) = oneshot::channel();
        self.waiting.insert(number, sender);
        call
    }

    /// Passes on whom the queue has called.
    fn tell(&mut self) {
        for (number, call) in self.queue.calls() {
            if let Some(waiting) = self.waiting.remove(&number) {
                // Whoever is gone leaves in a moment, and then the next one is called.
                let _ = waiting.send(call);
            }
        }
    }
}

/// Resolves when it is the turn of one who waits, or has lost its place.
pub(crate) async fn called(seat: &mut Option<Seat>) -> Result<(), Crowded> {
    match seat {
        Some(seat) => seat.called().await,
        None => pending().await,
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.shared.quotas().leave(&self.tenant, self.count, now);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.shared
            .quotas()
            .give_back(&self.tenant, self.tokens, now);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut desk = self.shared.desk();
        desk.waiting.remove(&self.number);
        desk.queue.leave(self.number);
        desk.tell();
    }
}

#[cfg(test)]
mod tests;
