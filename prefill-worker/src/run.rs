//! A prefill worker from its parts.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lava_engine::{PagePool, PrefixCache};
use lava_node::{Health, Metrics, Shutdown, supervise_thread};
use lava_proto::worker::prefill_server::{self, PrefillServer};
use lava_proto::worker::{Load, Role, worker_server};
use lava_transfer::LaneCounts;
use lava_worker::{
    Describe, Drain, Kept, LanePlan, Loaded, Membership, prefixes_to_wire, serve, server_builder,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::config::PrefillSection;
use crate::links::Links;
use crate::metrics::Counters;
use crate::queue::Queue;
use crate::runner::Runner;
use crate::service::Service;

/// A worker that is about to serve.
pub struct PrefillWorker {
    section: PrefillSection,
    loaded: Arc<Loaded>,
    pool: PagePool,
    counters: Counters,
    lanes: Option<LanePlan>,
    lane_counts: Arc<LaneCounts>,
}

impl PrefillWorker {
    /// A worker for a loaded model, which ships over gRPC, and over lanes where it may. Its series are registered in `metrics`.
    ///
    /// # Errors
    /// A GPU has no room for its caches, or the section asks for what GPUs cannot do.
    pub fn new(
        section: PrefillSection,
        loaded: Arc<Loaded>,
        lanes: Option<LanePlan>,
        metrics: &mut Metrics,
    ) -> Result<Self> {
        if loaded.model.device_bytes()?.is_some() && section.prefix_bytes.is_some() {
            bail!(
                "`prefill.prefix_bytes` is set, and fronts of prompts are not kept for a GPU: leave it out"
            );
        }
        let page_bytes = loaded.model.config().page_bytes();
        let pool = loaded.model.pool(section.pages(page_bytes))?;
        let lane_counts = Arc::<LaneCounts>::default();
        let counters = Counters::register(metrics, pool.clone(), Arc::clone(&lane_counts));
        Ok(Self {
            section,
            loaded,
            pool,
            counters,
            lanes,
            lane_counts,
        })
    }

    /// Serves until `shutdown`, then finishes what is queued within the drain timeout.
    ///
    /// # Errors
    /// The socket failed, or a part of the worker, which has drained then.
    pub async fn serve(
        self,
        listener: TcpListener,
        membership: Membership,
        health: Health,
        shutdown: Shutdown,
    ) -> Result<()> {
        let queue = Queue::new(&self.section, self.counters.clone());
        // However this ends, so does the engine's thread.
        let _closing = queue.closing();
        let prefix_bytes = self.section.prefix_bytes;
        let prefixes = prefix_bytes.map(|bytes| PrefixCache::new(&self.loaded.model, bytes));
        let runner = Runner {
            prefixes: prefixes.clone(),
            loaded: Arc::clone(&self.loaded),
            pool: self.pool,
            section: self.section.clone(),
            counters: self.counters.clone(),
            runtime: Handle::current(),
        };
        let waiting = queue.clone();
        supervise_thread("prefill engine", &health, move || Ok(runner.run(&waiting)?))
            .context("cannot start the engine's thread")?;

        let (load_queue, queue_max) = (queue.clone(), self.section.queue_max as u32);
        let busy = Arc::new(move || {
            let (requests, tokens, recent_tokens) = load_queue.load();
            Load {
                queue: requests as u32,
                queue_max,
                queue_tokens: tokens as u64,
                recent_tokens,
                ..Default::default()
            }
        });
        let kept = prefixes.clone().map(|prefixes| -> Kept {
            let block_tokens = PrefixCache::BLOCK_TOKENS;
            Arc::new(move |known| prefixes_to_wire(&prefixes.changes(known), block_tokens))
        });
        let describe = Describe::service(
            membership.worker_id.clone(),
            Role::Prefill,
            Arc::clone(&self.loaded),
            busy,
            kept,
            health.clone(),
            shutdown.clone(),
        );
        let drain = Drain {
            timeout: self.section.drain_timeout(),
            idle: {
                let counters = self.counters.clone();
                move || counters.queue.get() == 0 && counters.transfers.get() == 0
            },
        };
        let lanes = self.lanes;
        let lanes = lanes.map(|plan| plan.setup(&membership.worker_id, self.lane_counts));
        let service = Service {
            links: Links::new(self.section.connect_timeout(), lanes),
            loaded: self.loaded,
            queue,
            prefixes,
            health: health.clone(),
            counters: self.counters,
        };
        let service =
            PrefillServer::new(service).max_decoding_message_size(lava_proto::MESSAGE_BYTES_MAX);
        let router = server_builder()
            .add_service(describe)
            .add_service(service)
            .add_service(
                health.service(&[worker_server::SERVICE_NAME, prefill_server::SERVICE_NAME]),
            );
        serve(router, listener, membership, health, shutdown, drain)
            .await
            .context("the prefill worker failed")
    }
}
