//! `lava prefill` and `lava decode`.

use anyhow::Result;
use lava_cluster::{ClusterMetrics, EtcdPlan, Registry};
use lava_decode_worker::{DecodeConfig, DecodeWorker};
use lava_node::{Health, Metrics};
use lava_prefill_worker::{PrefillConfig, PrefillWorker};
use lava_worker::{ListenSection, Membership};
use tokio::net::TcpListener;

use lava_simulate::Role;

use crate::process::{ConfigArgs, Process, block_on, listen, load, worker_id};
use crate::simulate::SimulateArgs;

/// How a worker is started.
#[derive(clap::Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) simulate: SimulateArgs,
}

pub(crate) fn prefill(args: &WorkerArgs) -> Result<()> {
    let config: PrefillConfig = args.config.load()?;
    if let Some(plan) = args.simulate.plan(Role::Prefill)? {
        return plan.run(config.telemetry, config.http, config.listen, config.etcd);
    }
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

pub(crate) fn decode(args: &WorkerArgs) -> Result<()> {
    let config: DecodeConfig = args.config.load()?;
    if let Some(plan) = args.simulate.plan(Role::Decode)? {
        return plan.run(config.telemetry, config.http, config.listen, config.etcd);
    }
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
pub(crate) fn registry(etcd: Option<EtcdPlan>, metrics: &mut Metrics) -> Registry {
    match etcd {
        Some(plan) => Registry::etcd(plan, ClusterMetrics::register(metrics)),
        None => Registry::memory(),
    }
}

pub(crate) fn membership(
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
