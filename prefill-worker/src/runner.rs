//! The thread that the engine runs on: one prompt after another, or some short ones together.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use lava_engine::{
    EngineError, LayerDone, PagePool, PrefillJob, PrefillStats, Prefilled, PrefixCache, Sampler,
};
use lava_kv::Receipt;
use lava_node::Held;
use lava_proto::v1::{FinishReason, TransferStats};
use lava_proto::worker::prefill_event::Event;
use lava_proto::worker::{FirstToken, PrefillDone};
use lava_transfer::ShipError;
use lava_worker::{Loaded, Refusal, Stage, finish_after, sampled_to_wire};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::PrefillSection;
use crate::job::{Job, fail, send};
use crate::metrics::Counters;
use crate::queue::Queue;
use crate::service::engine_request;
use crate::shipment::{Sealed, Shipment};

/// A caller that has heard the end of its answer leaves within this time.
const TAKEN_IN_AFTER: Duration = Duration::from_secs(2);

/// Runs jobs until the queue is closed.
pub(crate) struct Runner {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) pool: PagePool,
    pub(crate) prefixes: Option<PrefixCache>,
    pub(crate) section: PrefillSection,
    pub(crate) counters: Counters,
    pub(crate) runtime: Handle,
}

/// A job on its way through the layers.
struct Progress {
    queue: Duration,
    /// `None`: one token needs no decode worker.
    shipment: Option<Shipment>,
    layer_end: Instant,
    /// Why it need not go on.
    failed: Option<Refusal>,
}

impl Progress {
    fn after_layer(&mut self, job: &Job, done: LayerDone<'_>) -> ControlFlow<()> {
        let _span = job.span.enter();
        self.layer_end = Instant::now();
        self.failed = job.ended(Stage::Prefill);
        let shipped = match &mut self.shipment {
            Some(shipment) => shipment.layer(done),
            None => Ok(true),
        };
        let shipped = shipped.unwrap_or_else(|error| {
            self.failed = Some(error.into());
            false
        });
        match self.failed.is_none() && shipped {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

impl Runner {
    /// # Errors
    /// The GPU failed: nothing runs here any more.
    pub(crate) fn run(&self, queue: &Queue) -> Result<(), EngineError> {
        // A thread that is gone accepts nothing.
        let _closing = queue.closing();
        while let Some(first) = queue.pop() {
            self.serve(self.group(first, queue))?;
        }
        Ok(())
    }

    /// A job and those that wait behind it, as long as all are short and their caches fit.
    fn group(&self, first: Job, queue: &Queue) -> Vec<Job> {
        let size = |job: &Job| {
            let request = engine_request(&job.attempt, &job.prompt);
            let pages = request.pages_max(&self.loaded.model, self.pool.page_bytes());
            (job.prompt.len(), pages)
        };
        let (mut tokens, mut pages) = size(&first);
        let mut group = vec![first];
        let mut fits = |job: &Job| {
            let more = size(job);
            (tokens, pages) = (tokens + more.0, pages + more.1);
            tokens <= self.section.together_tokens_max && pages <= self.pool.pages()
        };
        while let Some(job) = queue.pop_if(&mut fits) {
            group.push(job);
        }
        group
    }

    fn serve(&self, group: Vec<Job>) -> Result<(), EngineError> {
        let (mut jobs, mut progress) = (Vec::new(), Vec::new());
        for job in group {
            let _span = job.span.clone().entered();
            let queue = job.queued.elapsed();
            self.counters.queue_seconds.observe(queue.as_secs_f64());
            if let Some(refusal) = job.ended(Stage::Queue) {
                job.fail(&self.counters, refusal);
                continue;
            }
            progress.push(Progress {
                queue,
                shipment: (job.attempt.max_tokens > 1).then(|| self.start(&job)),
                layer_end: Instant::now(),
                failed: None,
            });
            jobs.push(job);
        }
        let mut callbacks: Vec<_> = jobs
            .iter()
            .zip(&mut progress)
            .map(|(job, progress)| move |done: LayerDone<'_>| progress.after_layer(job, done))
            .collect();
        let mut computed: Vec<_> = jobs
            .iter()
            .zip(&mut callbacks)
            .map(|(job, after_layer)| PrefillJob {
                request: engine_request(&job.attempt, &job.prompt),
                after_layer,
            })
            .collect();
        let prefixes = self.prefixes.as_ref();
        let model = &self.loaded.model;
        let results = model.prefill_together(&mut computed, &self.pool, prefixes);
        drop(computed);
        drop(callbacks);
        if let Some(prefixes) = prefixes {
            self.counters.prefix_bytes.set(prefixes.bytes() as i64);
        }
        let mut lost = Ok(());
        for ((job, progress), result) in jobs.into_iter().zip(progress).zip(results) {
            let _span = job.span.clone().entered();
            let events = job.events.clone();
            if let Err(refusal) = self.answer(job, progress, result) {
                if let Refusal::Engine(EngineError::Device(error)) = &refusal {
                    lost = Err(error.clone().into());
                }
                fail(&self.counters, &events, refusal);
            }
        }
        lost
    }

    /// After `Ok` the request is over, or goes on without this thread.
    fn answer(
        &self,
        job: Job,
        progress: Progress,
        result: Result<Prefilled, EngineError>,
    ) -> Result<(), Refusal> {
        let Progress {
            queue,
            shipment,
            layer_end,
            failed,
        } = progress;
        let prefilled = match (result, failed) {
            (Ok(prefilled), _) => prefilled,
            (Err(_), Some(refusal)) => return Err(refusal),
            (Err(EngineError::Cancelled { .. }), None) => {
                let shipment = shipment.expect("only a shipment stops a prefill that may go on");
                return Err(shipment.failure(&self.runtime).into());
            }
            (Err(error), None) => return Err(error.into()),
        };
        let packing = shipment.as_ref().map_or(Duration::ZERO, Shipment::packing);
        self.count(&job, &prefilled.stats, packing);

        let answered = &job.attempt.answered;
        let (prompt, _) = job.prompt.split_at(job.prompt.len() - answered.len());
        let vocabulary = self.loaded.model.config().vocabulary;
        let sampler = Sampler::new(job.attempt.sampling.clone(), prompt, vocabulary)?;
        let sampled = sampler.resume(answered).sample(&prefilled.logits)?;
        let finish = finish_after(&job.attempt, sampled.token, 1);
        let first = FirstToken {
            token: Some(sampled_to_wire(&sampled, &job.attempt)),
            finish: finish.unwrap_or(FinishReason::Unspecified).into(),
        };
        send(&job.events, Event::FirstToken(first));
        drop(prefilled.cache);
        let stats = TransferStats {
            queue_ms: milliseconds(queue),
            prefill_ms: milliseconds(prefilled.stats.total),
            scoring_ms: milliseconds(prefilled.stats.scoring),
            packing_ms: milliseconds(packing),
            full_bytes: job.attempt.shape.full_bytes() as u64,
            reused_tokens: prefilled.stats.reused_tokens as u64,
            ..Default::default()
        };
        match (shipment, finish) {
            (Some(shipment), None) => {
                self.finish(job, shipment.seal(sampled.token), stats, layer_end);
            }
            (shipment, _) => {
                self.counters.completed.inc();
                send(&job.events, done(stats));
                if let Some(shipment) = shipment {
                    self.give_up_late(&job, shipment);
                }
            }
        }
        Ok(())
    }

    /// Ends the transfer of an answer that is over when its caller has taken that in and left, or soon after: the
    /// decode worker would complain of a missing seal, and might be heard first.
    fn give_up_late(&self, job: &Job, shipment: Shipment) {
        let events = job.events.clone();
        let latest = job.attempt.deadline.min(Instant::now() + TAKEN_IN_AFTER);
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout_at(latest, events.closed()).await;
            drop(shipment);
        });
    }

    fn start(&self, job: &Job) -> Shipment {
        let header = job.attempt.header(job.ticket, self.loaded.fingerprint);
        Shipment::start(
            &self.runtime,
            job.link.clone(),
            header,
            self.section.frames_queued_max,
            job.attempt.deadline,
            Held::new(self.counters.transfers.clone(), 1),
        )
    }

    fn count(&self, job: &Job, stats: &PrefillStats, packing: Duration) {
        let computed = job.prompt.len() - stats.reused_tokens;
        self.counters.prompt_tokens.inc_by(computed as u64);
        let reused = stats.reused_tokens as u64;
        self.counters.reused_tokens.inc_by(reused);
        self.counters
            .prefill_seconds
            .observe(stats.total.as_secs_f64());
        self.counters
            .scoring_seconds
            .inc_by(stats.scoring.as_secs_f64());
        self.counters.packing_seconds.inc_by(packing.as_secs_f64());
    }

    /// Waits for the receipt beside the next prompt.
    fn finish(&self, job: Job, sealed: Sealed, mut stats: TransferStats, layer_end: Instant) {
        stats.shipped_bytes = sealed.payload_bytes;
        stats.rows_kept = sealed.rows;
        stats.row_bytes = sealed.element_bytes;
        stats.stored_bytes = sealed.stored_bytes;
        stats.early_share = sealed.early_share;
        stats.early_share_bound = sealed.early_share_bound;
        let counters = self.counters.clone();
        let Job {
            events,
            place,
            span,
            ..
        } = job;
        let waiting = async move {
            let expected = Receipt {
                rows: sealed.rows,
                checksum: sealed.checksum,
            };
            let receipt = tokio::select! {
                receipt = sealed.sending.receipt() => receipt,
                // The caller left; dropping the transfer ends it.
                () = events.closed() => {
                    let stage = Stage::Transfer;
                    return fail(&counters, &events, Refusal::CallerLeft { stage });
                }
            };
            drop(place);
            match receipt {
                Ok(receipt) if receipt == expected => {
                    let received = Instant::now();
                    let wait = received - layer_end;
                    counters.receipt_seconds.observe(wait.as_secs_f64());
                    counters.full_bytes.inc_by(stats.full_bytes);
                    counters.shipped_bytes.inc_by(stats.shipped_bytes);
                    counters.completed.inc();
                    tracing::debug!(
                        rows = stats.rows_kept,
                        bytes = stats.shipped_bytes,
                        "cache received"
                    );
                    stats.receipt_ms = milliseconds(wait);
                    stats.transfer_ms = sealed
                        .began
                        .map_or(0.0, |began| milliseconds(received - began));
                    send(&events, done(stats));
                }
                Ok(_) => {
                    let error = ShipError::Unexpected {
                        found: "a receipt for other rows",
                        expected: "one for what was sent",
                    };
                    fail(&counters, &events, error.into());
                }
                Err(error) => fail(&counters, &events, error.into()),
            }
        };
        self.runtime
            .spawn(tracing::Instrument::instrument(waiting, span));
    }
}

fn done(stats: TransferStats) -> Event {
    Event::Done(PrefillDone { stats: Some(stats) })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
