//! Slots that wait for their transfer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lava_kv::Ticket;
use lava_node::Held;
use lava_worker::{Refusal, Stage};
use tokio::time::Instant;

use crate::metrics::Counters;
use crate::slot::Slot;

/// How often expired tickets are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// The table of tickets; cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tickets {
    waiting: Arc<Mutex<HashMap<Ticket, Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    slot: Slot,
    _shown: Held,
}

/// The right of a caller that is still there; dropping it gives the ticket back if no transfer has
/// begun.
#[derive(Debug)]
pub(crate) struct Claim {
    ticket: Ticket,
    waiting: Weak<Mutex<HashMap<Ticket, Waiting>>>,
    counters: Counters,
}

impl Tickets {
    /// Lets `slot` wait under its ticket.
    pub(crate) fn insert(&self, slot: Slot, counters: Counters) -> Claim {
        let ticket = slot.header.ticket;
        let waiting = Waiting {
            slot,
            _shown: Held::new(counters.tickets.clone(), 1),
        };
        lock(&self.waiting).insert(ticket, waiting);
        Claim {
            ticket,
            waiting: Arc::downgrade(&self.waiting),
            counters,
        }
    }

    /// The slot of a ticket, for the one transfer that may have it.
    ///
    /// # Errors
    /// `NoReservation`: it was used, given up or expired.
    pub(crate) fn take(&self, ticket: Ticket) -> Result<Slot, Refusal> {
        let waiting = lock(&self.waiting).remove(&ticket);
        waiting
            .map(|waiting| waiting.slot)
            .ok_or(Refusal::NoReservation)
    }

    /// Ends slots whose transfer did not come in time. Runs until it is dropped.
    pub(crate) async fn sweep(&self, counters: &Counters) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            let now = Instant::now();
            let expired: Vec<Waiting> = lock(&self.waiting)
                .extract_if(|_, waiting| waiting.slot.attempt.deadline <= now)
                .map(|(_, waiting)| waiting)
                .collect();
            for waiting in expired {
                let stage = Stage::Reserved;
                counters.failed.inc();
                waiting.slot.output.fail(Refusal::Deadline { stage });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(waiting) = self.waiting.upgrade() else {
            return;
        };
        let given_back = lock(&waiting).remove(&self.ticket);
        if given_back.is_some() {
            self.counters.cancelled(Stage::Reserved);
        }
    }
}

fn lock(waiting: &Mutex<HashMap<Ticket, Waiting>>) -> MutexGuard<'_, HashMap<Ticket, Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
