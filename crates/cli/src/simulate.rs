//! `lava prefill --simulate` and `lava decode --simulate`: workers that only seem to have a model.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_cluster::EtcdConfig;
use lava_node::{Health, HttpConfig, Shutdown, TelemetryConfig, config};
use lava_simulate::{Ended, Gauges, Model, Profile, Role, Watch, Worker};
use lava_worker::{ListenSection, Membership};

use crate::process::{Process, block_on, worker_id};
use crate::workers::registry;

/// Whether a worker is simulated, and how.
#[derive(Args)]
pub(crate) struct SimulateArgs {
    /// Simulate the worker as this profile says (deploy/config/simulate.toml explains one): the real protocol, modelled times, noise
    /// for rows. Of the configuration only listen, http, telemetry and etcd matter.
    #[arg(long, value_name = "PROFILE")]
    simulate: Option<PathBuf>,
    /// Simulated workers in this process, each at a port of its own.
    #[arg(long, default_value_t = 1, requires = "simulate", value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
}

/// What is simulated.
pub(crate) struct SimulatePlan {
    role: Role,
    profile: Profile,
    model: Arc<Model>,
    count: u16,
}

impl SimulateArgs {
    /// Nothing if the worker is a real one.
    pub(crate) fn plan(&self, role: Role) -> Result<Option<SimulatePlan>> {
        let Some(path) = &self.simulate else {
            return Ok(None);
        };
        let profile: Profile = config::load(Some(path), &[])?;
        profile.check()?;
        Ok(Some(SimulatePlan {
            role,
            model: Arc::new(Model::load(&profile.model)?),
            profile,
            count: self.count,
        }))
    }
}

impl SimulatePlan {
    /// Until all workers have ended.
    pub(crate) fn run(
        self,
        telemetry: TelemetryConfig,
        http: HttpConfig,
        listen: ListenSection,
        etcd: EtcdConfig,
    ) -> Result<()> {
        if self.count > 1 && listen.address.port() != 0 {
            bail!(
                "`listen.address` has a port, expected 0: each of the {} workers needs one",
                self.count
            );
        }
        let etcd = etcd.into_plan()?;
        block_on(async {
            let mut process = Process::start(&telemetry, &http)?;
            let registry = registry(etcd, &mut process.metrics);
            let gauges = Gauges::register(self.role, &mut process.metrics);
            let health = Health::new();
            let shutdown = process.observe(&health).await?;
            let mut workers = Vec::new();
            for _ in 0..self.count {
                let listener = TcpListener::bind(listen.address)
                    .with_context(|| format!("cannot listen on {}", listen.address))?;
                let membership = Membership {
                    registry: registry.clone(),
                    worker_id: worker_id(match self.role {
                        Role::Prefill => "simulated-prefill",
                        Role::Decode => "simulated-decode",
                    })?,
                    address: listen.advertised(listener.local_addr()?),
                };
                tracing::info!(
                    worker = membership.worker_id,
                    address = membership.address,
                    "simulated worker ready"
                );
                workers.push(self.start(listener, membership, shutdown.clone(), gauges.clone())?);
            }
            health.serving();
            let ended = tokio::task::spawn_blocking(|| join(workers)).await;
            ended.context("a worker's thread panicked")?
        })
    }

    fn start(
        &self,
        listener: TcpListener,
        membership: Membership,
        shutdown: Shutdown,
        gauges: Gauges,
    ) -> Result<JoinHandle<Result<Ended>>> {
        let worker = Worker {
            role: self.role,
            model: Arc::clone(&self.model),
            profile: self.profile.clone(),
            watch: Watch {
                gauges,
                ..Watch::default()
            },
        };
        let started = worker.spawn(listener, membership, Health::new(), shutdown);
        started.context("cannot start a worker's thread")
    }
}

/// # Errors
/// One failed, or all have vanished.
fn join(workers: Vec<JoinHandle<Result<Ended>>>) -> Result<()> {
    let mut all_vanished = true;
    for worker in workers {
        let ended = worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        all_vanished &= ended == Ended::Vanished;
    }
    match all_vanished {
        true => bail!("vanished, as the profile says"),
        false => Ok(()),
    }
}
