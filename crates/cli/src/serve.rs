//! `lava serve`: all three roles in one process, one model in memory. The same code as three processes:
//! the workers listen on loopback ports of their own and the registry is in memory.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_cluster::Registry;
use lava_coordinator::CoordinatorMetrics;
use lava_decode_worker::DecodeSection;
use lava_node::{Health, HttpConfig, Metrics, Shutdown, TelemetryConfig};
use lava_prefill_worker::PrefillSection;
use lava_worker::{Membership, ModelSection};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::pair::{Pair, Seat};
use crate::process::{ConfigArgs, Process, block_on, listen, load, worker_id};

/// Arguments of `lava serve`.
#[derive(Args)]
pub(crate) struct Serve {
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model); the same as
    /// --set model.path=...
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// All of `serve.toml`: the sections of the three roles.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServeConfig {
    pub(crate) listen: lava_coordinator::ListenConfig,
    pub(crate) http: HttpConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) model: ModelSection,
    limits: lava_coordinator::LimitsConfig,
    admission: lava_coordinator::AdmissionConfig,
    defaults: lava_coordinator::DefaultsConfig,
    workers: lava_coordinator::WorkersConfig,
    retry: lava_coordinator::RetryConfig,
    drain: lava_coordinator::DrainConfig,
    prefill: PrefillSection,
    decode: DecodeSection,
}

pub(crate) fn run(options: &Serve) -> Result<()> {
    let mut config: ServeConfig = options.config.load()?;
    if options.model.is_some() {
        config.model.path.clone_from(&options.model);
    }
    let (telemetry, http) = (config.telemetry.clone(), config.http.clone());
    let plan = config.into_plan()?;
    block_on(async {
        let mut process = Process::start(&telemetry, &http)?;
        let roles = Roles::load(plan, &mut process.metrics).await?;
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        roles.run(health, shutdown).await
    })
}

impl ServeConfig {
    /// Checks everything.
    pub(crate) fn into_plan(self) -> Result<ServePlan> {
        self.prefill.check()?;
        self.decode.check()?;
        self.model.path_and_name()?;
        if !self.workers.addresses.is_empty() {
            bail!(
                "`workers.addresses` is given, but `lava serve` has its own workers; use `lava coordinator`"
            );
        }
        let address = self.listen.address;
        let coordinator = lava_coordinator::Config {
            listen: self.listen,
            limits: self.limits,
            admission: self.admission,
            defaults: self.defaults,
            workers: self.workers,
            retry: self.retry,
            drain: self.drain,
            ..Default::default()
        };
        Ok(ServePlan {
            address,
            coordinator: coordinator.into_plan()?,
            model: self.model,
            prefill: self.prefill,
            decode: self.decode,
        })
    }
}

/// A configuration that makes sense.
pub(crate) struct ServePlan {
    address: SocketAddr,
    coordinator: lava_coordinator::Plan,
    model: ModelSection,
    prefill: PrefillSection,
    decode: DecodeSection,
}

/// The three roles with their model in memory, before they serve.
pub(crate) struct Roles {
    listener: TcpListener,
    coordinator: lava_coordinator::Plan,
    counters: CoordinatorMetrics,
    workers: Pair,
}

impl Roles {
    /// Takes the port and loads the model.
    pub(crate) async fn load(plan: ServePlan, metrics: &mut Metrics) -> Result<Self> {
        let listener = listen(plan.address).await?;
        let loaded = load(&plan.model).await?;
        Ok(Self {
            listener,
            coordinator: plan.coordinator,
            workers: Pair::new(plan.prefill, plan.decode, loaded, None, metrics)?,
            counters: CoordinatorMetrics::register(metrics),
        })
    }

    /// Where clients come in.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        let address = self.listener.local_addr();
        address.context("a bound socket has an address")
    }

    /// Serves until `shutdown` is triggered, or a part fails, and the answers under way have ended.
    pub(crate) async fn run(self, health: Health, shutdown: Shutdown) -> Result<()> {
        let address = self.address()?;
        let registry = Registry::memory();
        // The workers go on until the coordinator has no request left, unless one of them ends by itself.
        let workers_end = Shutdown::new();
        let prefill_at = join(&registry, "prefill").await?;
        let decode_at = join(&registry, "decode").await?;
        let (judged, ending) = (health.clone(), shutdown.clone());
        let working = self
            .workers
            .serve(prefill_at, decode_at, &judged, &workers_end, &ending);
        tracing::info!(%address, "all roles ready");
        let coordinating = async {
            let run = lava_coordinator::run(
                self.coordinator,
                registry,
                self.listener,
                self.counters,
                health,
                shutdown,
            );
            let ended = run.await;
            workers_end.trigger();
            ended
        };
        let (worked, coordinated) = tokio::join!(working, coordinating);
        worked.and(coordinated)
    }
}

/// A loopback port for a worker, and its entry in the registry.
async fn join(registry: &Registry, role: &str) -> Result<Seat> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any).await?;
    let address = listener
        .local_addr()
        .context("a bound socket has an address")?;
    let membership = Membership {
        registry: registry.clone(),
        worker_id: worker_id(role)?,
        address: address.to_string(),
    };
    Ok((listener, membership))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::sample;

    #[test]
    fn the_sample_file_is_the_defaults() {
        let mut parsed: ServeConfig = sample("serve.toml");
        assert!(
            parsed.model.path.take().is_some(),
            "the sample names a model"
        );
        assert_eq!(parsed, ServeConfig::default());
    }
}
