//! `lava prefill` and `lava decode`.

use anyhow::Result;
use lava_cluster::{ClusterMetrics, EtcdPlan, Registry};
use lava_decode_worker::{DecodeConfig, DecodeWorker};
use lava_node::{Health, Metrics};
use lava_prefill_worker::{PrefillConfig, PrefillWorker};
use lava_worker::{ListenSection, Membership};
use tokio::net::TcpListener;

use crate::process::{ConfigArgs, Process, block_on, listen, load, worker_id};

pub(crate) fn prefill(args: &ConfigArgs) -> Result<()> {
    let config: PrefillConfig = args.load()?;
    config.prefill.check()?;
    config.transfer.check()?;
    config.model.path_and_name()?;
    let etcd = config.etcd.clone().into_plan()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let listener = listen(config.listen.address).await?;
        let lanes = config.transfer.lanes(&config.model)?;
        let loaded = load(&config.model).await?;
        let worker = PrefillWorker::new(config.prefill, loaded, lanes, &mut process.metrics)?;
        let membership = membership(
            "prefill",
            registry(etcd, &mut process.metrics),
            &config.listen,
            &listener,
        )?;
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        worker.serve(listener, membership, health, shutdown).await
    })
}

pub(crate) fn decode(args: &ConfigArgs) -> Result<()> {
    let config: DecodeConfig = args.load()?;
    config.decode.check()?;
    config.transfer.check()?;
    config.model.path_and_name()?;
    let etcd = config.etcd.clone().into_plan()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let listener = listen(config.listen.address).await?;
        let lanes = config.transfer.lanes(&config.model)?;
        let loaded = load(&config.model).await?;
        let worker = DecodeWorker::new(config.decode, loaded, lanes, &mut process.metrics)?;
        let membership = membership(
            "decode",
            registry(etcd, &mut process.metrics),
            &config.listen,
            &listener,
        )?;
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        worker.serve(listener, membership, health, shutdown).await
    })
}

/// Without etcd the worker registers where nobody looks, and coordinators list its address.
fn registry(etcd: Option<EtcdPlan>, metrics: &mut Metrics) -> Registry {
    match etcd {
        Some(plan) => Registry::etcd(plan, ClusterMetrics::register(metrics)),
        None => Registry::memory(),
    }
}

fn membership(
    role: &str,
    registry: Registry,
    section: &ListenSection,
    listener: &TcpListener,
) -> Result<Membership> {
    let membership = Membership {
        registry,
        worker_id: worker_id(role)?,
        address: section.advertised(listener.local_addr()?),
    };
    let Membership {
        worker_id, address, ..
    } = &membership;
    tracing::info!(worker = worker_id, address, "{role} worker ready");
    Ok(membership)
}
