//! Coordinators and simulated workers in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lava_cluster::Registry;
use lava_coordinator::{Config, CoordinatorMetrics};
use lava_node::{Health, Metrics, Shutdown};
use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use lava_simulate::{Model, Profile, Role, Watch, Worker};
use lava_worker::Membership;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// Time for a coordinator to see its workers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a fleet consists of.
pub(super) struct FleetPlan {
    pub(super) profile: Profile,
    pub(super) prefill_workers: u16,
    pub(super) decode_workers: u16,
    pub(super) coordinators: u16,
    /// Of each coordinator.
    pub(super) config: Config,
}

pub(super) struct Fleet {
    pub(super) model: Arc<Model>,
    pub(super) prefill: Vec<Member>,
    pub(super) decode: Vec<Member>,
    pub(super) coordinators: Vec<SocketAddr>,
    stop: Shutdown,
}

/// A worker of a fleet.
pub(super) struct Member {
    /// host:port.
    pub(super) address: String,
    pub(super) watch: Watch,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Fleet {
    /// Starts everything, and waits until each coordinator sees each worker.
    pub(super) async fn start(plan: FleetPlan) -> Result<Self> {
        let FleetPlan {
            profile,
            prefill_workers,
            decode_workers,
            coordinators,
            config,
        } = plan;
        profile.check()?;
        let model = Arc::new(Model::load(&profile.model)?);
        let (registry, stop) = (Registry::memory(), Shutdown::new());
        let start = |role: Role, number: u16| -> Result<Member> {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let member = Member {
                address: listener.local_addr()?.to_string(),
                watch: Watch::default(),
            };
            let membership = Membership {
                registry: registry.clone(),
                worker_id: format!("{role:?}-{number}").to_lowercase(),
                address: member.address.clone(),
            };
            let worker = Worker {
                role,
                model: Arc::clone(&model),
                profile: profile.clone(),
                watch: member.watch.clone(),
            };
            worker.spawn(listener, membership, Health::new(), stop.clone())?;
            Ok(member)
        };
        let prefill: Result<Vec<Member>> = (0..prefill_workers)
            .map(|number| start(Role::Prefill, number))
            .collect();
        let decode: Result<Vec<Member>> = (0..decode_workers)
            .map(|number| start(Role::Decode, number))
            .collect();
        let mut fleet = Self {
            model,
            prefill: prefill?,
            decode: decode?,
            coordinators: Vec::new(),
            stop: stop.clone(),
        };
        for _ in 0..coordinators {
            let started = coordinator(config.clone(), registry.clone(), &stop).await?;
            fleet.coordinators.push(started);
        }
        let workers = (prefill_workers.into(), decode_workers.into());
        for &coordinator in &fleet.coordinators {
            until_ready(coordinator, workers, READY_TIMEOUT).await?;
        }
        Ok(fleet)
    }

    /// A connection to the first coordinator.
    pub(super) async fn client(&self) -> Result<InferenceClient<Channel>> {
        connect(self.coordinators[0]).await
    }
}

/// Starts a coordinator at a loopback port, until `stop`.
pub(super) async fn coordinator(
    config: Config,
    registry: Registry,
    stop: &Shutdown,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(lava_coordinator::run(
        config.into_plan()?,
        registry,
        listener,
        CoordinatorMetrics::register(&mut Metrics::new()),
        Health::new(),
        stop.clone(),
    ));
    Ok(address)
}

/// Waits until a coordinator has a model with so many prefill and decode workers.
pub(super) async fn until_ready(
    coordinator: SocketAddr,
    workers: (u32, u32),
    within: Duration,
) -> Result<v1::Model> {
    let until = Instant::now() + within;
    let mut client = connect(coordinator).await?;
    loop {
        let listed = client.list_models(v1::ListModelsRequest {}).await?;
        let models = listed.into_inner().models;
        let seen = |model: &v1::Model| (model.prefill_workers, model.decode_workers);
        if let Some(model) = models.iter().find(|model| seen(model) == workers) {
            return Ok(model.clone());
        }
        if Instant::now() > until {
            let seen: Vec<_> = models.iter().map(seen).collect();
            bail!(
                "after {within:?} a coordinator sees prefill and decode workers {seen:?}, by model, expected {workers:?} of one"
            );
        }
        sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn connect(coordinator: SocketAddr) -> Result<InferenceClient<Channel>> {
    let client = InferenceClient::connect(format!("http://{coordinator}")).await;
    Ok(client
        .context("the coordinator cannot be reached")?
        .max_encoding_message_size(lava_proto::MESSAGE_BYTES_MAX))
}
