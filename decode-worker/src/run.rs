//! A decode worker from its parts.

use std::sync::Arc;

use anyhow::{Context, Result};
use lava_engine::PagePool;
use lava_node::{Health, Metrics, Shutdown, supervise, supervise_thread};
use lava_proto::worker::decode_server::{self, DecodeServer};
use lava_proto::worker::{Load, Role, cache_link_server, worker_server};
use lava_transfer::{LaneCounts, Lanes};
use lava_worker::{Describe, Drain, LanePlan, Loaded, Membership, serve, server_builder};
use tokio::net::TcpListener;

use crate::batch::Batch;
use crate::config::DecodeSection;
use crate::intake::Intake;
use crate::metrics::Counters;
use crate::service::Service;
use crate::tickets::Tickets;

/// A worker that is about to serve.
pub struct DecodeWorker {
    section: DecodeSection,
    loaded: Arc<Loaded>,
    pool: PagePool,
    counters: Counters,
    lanes: Option<LanePlan>,
    lane_counts: Arc<LaneCounts>,
}

impl DecodeWorker {
    /// A worker for a loaded model, which takes caches in over gRPC, and over lanes where it may. Its series are registered in `metrics`.
    ///
    /// # Errors
    /// A GPU has no room for its caches.
    pub fn new(
        section: DecodeSection,
        loaded: Arc<Loaded>,
        lanes: Option<LanePlan>,
        metrics: &mut Metrics,
    ) -> Result<Self> {
        let page_bytes = loaded.model.config().page_bytes();
        let pool = loaded
            .model
            .pool(section.pages(page_bytes, loaded.model.device_bytes()?))?;
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

    /// Serves until `shutdown`, then finishes what runs within the drain timeout.
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
        let (batch, batcher) = Batch::new(
            self.section.clone(),
            Arc::clone(&self.loaded),
            self.counters.clone(),
        );
        supervise_thread("decode engine", &health, move || Ok(batcher.run()?))
            .context("cannot start the engine's thread")?;
        let tickets = Tickets::default();
        let (swept, counters) = (tickets.clone(), self.counters.clone());
        let sweeping = supervise("ticket sweep", &health, async move {
            swept.sweep(&counters).await;
            Ok(())
        });

        let describe = Describe::service(
            membership.worker_id.clone(),
            Role::Decode,
            Arc::clone(&self.loaded),
            self.busy(),
            None,
            health.clone(),
            shutdown.clone(),
        );
        let lanes = self.lanes.clone();
        let counts = Arc::clone(&self.lane_counts);
        let lanes = lanes.map(|plan| Lanes::new(plan.setup(&membership.worker_id, counts)));
        let intake = Intake {
            lanes: lanes.unwrap_or_default(),
            tickets: tickets.clone(),
            batch,
            frames_in_flight_max: self.section.frames_in_flight_max,
            counters: self.counters.clone(),
        };
        let drain = Drain {
            timeout: self.section.drain_timeout(),
            idle: {
                let counters = self.counters.clone();
                move || counters.slots.get() == 0
            },
        };
        let service = Service {
            section: self.section,
            loaded: self.loaded,
            pool: self.pool,
            tickets,
            health: health.clone(),
            counters: self.counters,
        };
        let service =
            DecodeServer::new(service).max_decoding_message_size(lava_proto::MESSAGE_BYTES_MAX);
        let names = [
            worker_server::SERVICE_NAME,
            decode_server::SERVICE_NAME,
            cache_link_server::SERVICE_NAME,
        ];
        let router = server_builder()
            .add_service(describe)
            .add_service(service)
            .add_service(lava_transfer::server(intake))
            .add_service(health.service(&names));
        let served = serve(router, listener, membership, health, shutdown, drain)
            .await
            .context("the decode worker failed");
        sweeping.abort();
        served
    }

    fn busy(&self) -> lava_worker::Busy {
        let (pool, slots) = (self.pool.clone(), self.counters.slots.clone());
        let slots_max = self.section.slots_max as u32;
        Arc::new(move || Load {
            pages_reserved: pool.pages_reserved() as u64,
            pages_total: pool.pages() as u64,
            page_bytes: pool.page_bytes() as u32,
            slots: slots.get() as u32,
            slots_max,
            ..Default::default()
        })
    }
}
