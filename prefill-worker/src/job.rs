//! A request on its way to the engine.

use lava_engine::ExpectedBlocks;
use lava_kv::Ticket;
use lava_proto::worker::PrefillEvent;
use lava_proto::worker::prefill_event::Event;
use lava_transfer::Link;
use lava_worker::{Attempt, Refusal, Stage};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use crate::metrics::Counters;
use crate::queue::Place;

/// Where a request's events go. At most a token and one ending are sent, so there is always room.
pub(crate) type Events = mpsc::Sender<Result<PrefillEvent, Status>>;

/// Events of one request.
pub(crate) const EVENTS_MAX: usize = 4;

/// A request in the queue or on the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) attempt: Attempt,
    pub(crate) prompt: Vec<u32>,
    pub(crate) ticket: Ticket,
    pub(crate) link: Link,
    pub(crate) events: Events,
    pub(crate) queued: Instant,
    pub(crate) place: Place,
    /// Other prompts may count on its blocks.
    pub(crate) _expected: Option<ExpectedBlocks>,
    pub(crate) span: tracing::Span,
}

impl Job {
    /// Why it need not go on.
    pub(crate) fn ended(&self, stage: Stage) -> Option<Refusal> {
        if self.events.is_closed() {
            return Some(Refusal::CallerLeft { stage });
        }
        (Instant::now() >= self.attempt.deadline).then_some(Refusal::Deadline { stage })
    }

    /// Ends it, and gives its place back.
    pub(crate) fn fail(self, counters: &Counters, refusal: Refusal) {
        let _span = self.span.enter();
        fail(counters, &self.events, refusal);
    }
}

/// Tells a caller why its request ended, and counts it.
pub(crate) fn fail(counters: &Counters, events: &Events, refusal: Refusal) {
    match &refusal {
        Refusal::CallerLeft { stage } => counters.cancelled(*stage),
        _ => drop(counters.failed.inc()),
    }
    tracing::info!(%refusal, "ended");
    let _ = events.try_send(Err(refusal.into()));
}

/// Tells a caller what happened. One that left is noticed where work would go on.
pub(crate) fn send(events: &Events, event: Event) {
    let _ = events.try_send(Ok(PrefillEvent { event: Some(event) }));
}
