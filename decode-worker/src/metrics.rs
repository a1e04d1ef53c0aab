//! Everything a decode worker counts. Names begin with `lava_decode_`.

use std::sync::Arc;

use lava_engine::PagePool;
use lava_node::Metrics;
use lava_transfer::LaneCounts;
use lava_worker::{LaneSeries, PoolSeries, Stage};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Handles to the registered series; cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) slots: Gauge,
    pub(crate) tickets: Gauge,
    pub(crate) transfers: Gauge,
    pub(crate) reserved: Counter,
    pub(crate) refused: Counter,
    pub(crate) transfers_refused: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) completed: Counter,
    cancelled: Family<StageLabel, Counter>,
    pub(crate) failed: Counter,
    pub(crate) slow_clients: Counter,
    pub(crate) tokens: Counter,
    pub(crate) steps: Counter,
    pub(crate) step_seconds: Histogram,
    pub(crate) batch: Histogram,
}

/// See [`Stage`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

impl Counters {
    /// A caller left.
    pub(crate) fn cancelled(&self, stage: Stage) {
        self.cancelled_in(stage).inc();
    }

    fn cancelled_in(&self, stage: Stage) -> Counter {
        let stage = stage.label();
        self.cancelled.get_or_create_owned(&StageLabel { stage })
    }

    pub(crate) fn register(metrics: &mut Metrics, pool: PagePool, lanes: Arc<LaneCounts>) -> Self {
        let all = Self {
            slots: Gauge::default(),
            tickets: Gauge::default(),
            transfers: Gauge::default(),
            reserved: Counter::default(),
            refused: Counter::default(),
            transfers_refused: Counter::default(),
            received_bytes: Counter::default(),
            completed: Counter::default(),
            cancelled: Family::default(),
            failed: Counter::default(),
            slow_clients: Counter::default(),
            tokens: Counter::default(),
            steps: Counter::default(),
            step_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
        };
        let r = metrics.sub_registry("decode");
        r.register(
            "slots",
            "Sequences that wait for their cache or run",
            all.slots.clone(),
        );
        r.register(
            "tickets",
            "Reservations whose transfer has not begun",
            all.tickets.clone(),
        );
        r.register(
            "transfers",
            "Transfers being received",
            all.transfers.clone(),
        );
        r.register("reserved", "Reservations made", all.reserved.clone());
        r.register("refused", "Reservations refused", all.refused.clone());
        r.register(
            "transfers_refused",
            "Transfers that broke or were refused",
            all.transfers_refused.clone(),
        );
        r.register(
            "received_bytes",
            "Payload bytes of whole transfers",
            all.received_bytes.clone(),
        );
        r.register(
            "completed",
            "Answers that came to their end",
            all.completed.clone(),
        );
        r.register(
            "cancelled",
            "Requests whose caller left, by stage",
            all.cancelled.clone(),
        );
        r.register(
            "failed",
            "Requests that ended with an error after their reservation",
            all.failed.clone(),
        );
        r.register(
            "slow_clients",
            "Answers that were ended because nobody took their tokens",
            all.slow_clients.clone(),
        );
        r.register("tokens", "Tokens made", all.tokens.clone());
        r.register("steps", "Steps of the batch", all.steps.clone());
        r.register("step_seconds", "Time of a step", all.step_seconds.clone());
        r.register("batch_sequences", "Sequences of a step", all.batch.clone());
        r.register_collector(Box::new(PoolSeries::new(pool)));
        r.register_collector(Box::new(LaneSeries::new(lanes)));
        // Every stage is listed from the start.
        for stage in [Stage::Reserved, Stage::Transfer, Stage::Decode] {
            all.cancelled_in(stage);
        }
        all
    }
}
