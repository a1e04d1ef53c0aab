//! A coordinator and simulated workers in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lava_cluster::Registry;
use lava_coordinator::{Config, CoordinatorMetrics};
use lava_node::{Health, Metrics, Shutdown};
use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use lava_simulate::{Model, Profile, Role, Worker};
use lava_worker::Membership;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// Time for a coordinator to see its workers.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Fleet {
    pub(super) model: Arc<Model>,
    /// host:port of one worker of each role.
    pub(super) prefill: String,
    pub(super) decode: String,
    coordinator: SocketAddr,
    stop: Shutdown,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Fleet {
    /// So many workers of each role.
    pub(super) async fn start(profile: Profile, workers: u16) -> Result<Self> {
        profile.check()?;
        let model = Arc::new(Model::load(&profile.model)?);
        let (registry, stop) = (Registry::memory(), Shutdown::new());
        let start = |role: Role, number: u16| -> Result<String> {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?.to_string();
            let membership = Membership {
                registry: registry.clone(),
                worker_id: format!("{role:?}-{number}"),
                address: address.clone(),
            };
            let worker = Worker {
                role,
                model: Arc::clone(&model),
                profile: profile.clone(),
            };
            worker.spawn(listener, membership, Health::new(), stop.clone())?;
            Ok(address)
        };
        let (mut prefill, mut decode) = (String::new(), String::new());
        for number in 0..workers {
            prefill = start(Role::Prefill, number)?;
            decode = start(Role::Decode, number)?;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let coordinator = listener.local_addr()?;
        let mut config = Config::default();
        config.limits.flights_max = 4096;
        let running = lava_coordinator::run(
            config.into_plan()?,
            registry,
            listener,
            CoordinatorMetrics::register(&mut Metrics::new()),
            Health::new(),
            stop.clone(),
        );
        tokio::spawn(running);
        let fleet = Self {
            model,
            prefill,
            decode,
            coordinator,
            stop,
        };
        fleet.until_ready(workers.into()).await?;
        Ok(fleet)
    }

    pub(super) async fn client(&self) -> Result<InferenceClient<Channel>> {
        let client = InferenceClient::connect(format!("http://{}", self.coordinator)).await;
        Ok(client
            .context("the coordinator cannot be reached")?
            .max_encoding_message_size(lava_proto::MESSAGE_BYTES_MAX))
    }

    async fn until_ready(&self, workers: u32) -> Result<()> {
        let until = Instant::now() + READY_TIMEOUT;
        let mut client = self.client().await?;
        loop {
            let listed = client.list_models(v1::ListModelsRequest {}).await?;
            let models = listed.into_inner().models;
            let is_whole = |model: &v1::Model| {
                model.prefill_workers == workers && model.decode_workers == workers
            };
            if models.iter().any(is_whole) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("the coordinator does not see its workers");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}
