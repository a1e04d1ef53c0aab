//! A worker of each role in one process, with one model in memory.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Result;
use lava_decode_worker::{DecodeSection, DecodeWorker};
use lava_node::{Health, Metrics, Shutdown};
use lava_prefill_worker::{PrefillSection, PrefillWorker};
use lava_worker::{LanePlan, Loaded, Membership};
use tokio::net::TcpListener;

/// Both, before they serve.
pub(crate) struct Pair {
    prefill: PrefillWorker,
    decode: DecodeWorker,
}

/// Where a worker listens, and its entry in the registry.
pub(crate) type Seat = (TcpListener, Membership);

impl Pair {
    pub(crate) fn new(
        prefill: PrefillSection,
        decode: DecodeSection,
        loaded: Arc<Loaded>,
        lanes: Option<LanePlan>,
        metrics: &mut Metrics,
    ) -> Result<Self> {
        Ok(Self {
            prefill: PrefillWorker::new(prefill, Arc::clone(&loaded), lanes.clone(), metrics)?,
            decode: DecodeWorker::new(decode, loaded, lanes, metrics)?,
        })
    }

    /// Serves until `shutdown` is triggered and what is under way has ended. A worker that ends by itself, or fails, which makes
    /// `health` failed, triggers `ending`: nobody goes on without it.
    pub(crate) async fn serve(
        self,
        prefill_at: Seat,
        decode_at: Seat,
        health: &Health,
        shutdown: &Shutdown,
        ending: &Shutdown,
    ) -> Result<()> {
        let (prefill_health, decode_health) = (Health::new(), Health::new());
        let prefilling = self.prefill.serve(
            prefill_at.0,
            prefill_at.1,
            prefill_health.clone(),
            shutdown.clone(),
        );
        let decoding = self.decode.serve(
            decode_at.0,
            decode_at.1,
            decode_health.clone(),
            shutdown.clone(),
        );
        let prefilling = async { (prefilling.await, ending.trigger()).0 };
        let decoding = async { (decoding.await, ending.trigger()).0 };
        let watching = async {
            let reason = tokio::select! {
                reason = prefill_health.failure() => reason,
                reason = decode_health.failure() => reason,
            };
            health.failed(reason);
            ending.trigger();
            std::future::pending::<Infallible>().await
        };
        let both = async { tokio::join!(prefilling, decoding) };
        tokio::select! {
            (prefill, decode) = both => prefill.and(decode),
            never = watching => match never {},
        }
    }
}
