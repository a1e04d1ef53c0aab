//! Everything a prefill worker counts. Names begin with `lava_prefill_`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

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
    /// Requests that wait or run.
    pub(crate) queue: Gauge,
    /// Their prompt tokens.
    pub(crate) queue_tokens: Gauge,
    /// Transfers that have no receipt yet.
    pub(crate) transfers: Gauge,
    pub(crate) completed: Counter,
    cancelled: Family<StageLabel, Counter>,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) reused_tokens: Counter,
    pub(crate) prefix_bytes: Gauge,
    pub(crate) full_bytes: Counter,
    pub(crate) shipped_bytes: Counter,
    pub(crate) queue_seconds: Histogram,
    pub(crate) prefill_seconds: Histogram,
    pub(crate) scoring_seconds: Counter<f64, AtomicU64>,
    pub(crate) packing_seconds: Counter<f64, AtomicU64>,
    pub(crate) receipt_seconds: Histogram,
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
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let all = Self {
            queue: Gauge::default(),
            queue_tokens: Gauge::default(),
            transfers: Gauge::default(),
            completed: Counter::default(),
            cancelled: Family::default(),
            failed: Counter::default(),
            refused: Counter::default(),
            prompt_tokens: Counter::default(),
            reused_tokens: Counter::default(),
            prefix_bytes: Gauge::default(),
            full_bytes: Counter::default(),
            shipped_bytes: Counter::default(),
            queue_seconds: seconds(),
            prefill_seconds: seconds(),
            scoring_seconds: Counter::default(),
            packing_seconds: Counter::default(),
            receipt_seconds: seconds(),
        };
        let r = metrics.sub_registry("prefill");
        r.register("queue", "Requests that wait or run", all.queue.clone());
        r.register(
            "queue_tokens",
            "Prompt tokens of requests that wait or run",
            all.queue_tokens.clone(),
        );
        r.register_collector(Box::new(PoolSeries::new(pool)));
        r.register_collector(Box::new(LaneSeries::new(lanes)));
        r.register(
            "transfers",
            "Transfers without a receipt yet",
            all.transfers.clone(),
        );
        r.register(
            "completed",
            "Prompts whose first token was sent and whose cache, if any, was received",
            all.completed.clone(),
        );
        r.register(
            "cancelled",
            "Requests whose caller left, by stage",
            all.cancelled.clone(),
        );
        r.register(
            "failed",
            "Requests that ended with an error after they were queued",
            all.failed.clone(),
        );
        r.register(
            "refused",
            "Requests that were not queued",
            all.refused.clone(),
        );
        r.register(
            "prompt_tokens",
            "Prompt tokens computed",
            all.prompt_tokens.clone(),
        );
        r.register(
            "reused_tokens",
            "Prompt tokens that were not computed because an earlier prompt began with them",
            all.reused_tokens.clone(),
        );
        r.register(
            "prefix_bytes",
            "Bytes of the keys and values of recent prompts' fronts",
            all.prefix_bytes.clone(),
        );
        r.register(
            "full_bytes",
            "Bytes that whole caches would have shipped",
            all.full_bytes.clone(),
        );
        r.register(
            "shipped_bytes",
            "Bytes of all frames shipped",
            all.shipped_bytes.clone(),
        );
        r.register(
            "queue_seconds",
            "Time in the queue",
            all.queue_seconds.clone(),
        );
        r.register(
            "seconds",
            "Time of a prompt in the engine",
            all.prefill_seconds.clone(),
        );
        r.register(
            "scoring_seconds",
            "Time spent on scores, ranking and gathering",
            all.scoring_seconds.clone(),
        );
        r.register(
            "packing_seconds",
            "Time spent on frames of certain rows and on handing them to the link",
            all.packing_seconds.clone(),
        );
        r.register(
            "receipt_seconds",
            "End of the last layer to the receipt",
            all.receipt_seconds.clone(),
        );
        // Every stage is listed from the start.
        for stage in [Stage::Queue, Stage::Prefill, Stage::Transfer] {
            all.cancelled_in(stage);
        }
        all
    }
}
