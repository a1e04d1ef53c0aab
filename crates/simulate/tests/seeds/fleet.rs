//! The hosts of a run: workers, coordinators, and what can be seen of them from outside.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_coordinator::{Config, CoordinatorMetrics};
use lava_node::{Health, Metrics, Planted, Shutdown};
use lava_simulate::{Model, Watch, Worker};
use lava_worker::Membership;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry as Series;
use tokio::time::{advance, sleep};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::network::{Connections, PORT};
use crate::plan::{self, Plan};

/// What outlives the processes of one host.
#[derive(Default)]
pub(crate) struct Process {
    /// How often it was started.
    lives: Cell<u64>,
    /// Its newest life is over: by a fault of its profile, from outside, or because it has drained.
    pub(crate) killed: RefCell<CancellationToken>,
    /// Tells its newest life to end.
    pub(crate) shutdown: RefCell<Shutdown>,
    /// Of each of its lives.
    health: RefCell<Vec<Health>>,
    /// Of its newest life.
    series: RefCell<Option<Arc<Series>>>,
}

impl Process {
    /// The number of another life, from 1.
    fn begin(&self, health: &Health) -> u64 {
        self.lives.set(self.lives.get() + 1);
        self.health.borrow_mut().push(health.clone());
        self.killed.replace(CancellationToken::new());
        self.shutdown.replace(Shutdown::new());
        self.lives.get()
    }

    /// The end of a life that was not killed: nothing is left of it, and it waits for its host to be taken down.
    async fn ended(&self, connections: &Connections) -> turmoil::Result {
        connections.close();
        self.killed.borrow().cancel();
        std::future::pending().await
    }

    /// Whether no part of it has broken, in any life.
    pub(crate) fn is_whole(&self) -> bool {
        self.health
            .borrow()
            .iter()
            .all(|health| health.state().is_live())
    }

    /// A gauge of a coordinator.
    pub(crate) fn gauge(&self, name: &str) -> Option<i64> {
        let mut text = String::new();
        encode(&mut text, self.series.borrow().as_ref()?).expect("text can be written");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
    }
}

/// What all hosts of a run share.
pub(crate) struct Common {
    pub(crate) plan: Rc<Plan>,
    pub(crate) model: Arc<Model>,
    pub(crate) planted: Option<Planted>,
}

impl Common {
    pub(crate) fn worker(
        &self,
        sim: &mut Sim<'_>,
        index: usize,
        registry: &Registry,
    ) -> Rc<Process> {
        let process = Rc::new(Process::default());
        let (shown, registry) = (Rc::clone(&process), registry.clone());
        let (plan, model, planted) = (Rc::clone(&self.plan), Arc::clone(&self.model), self.planted);
        let name = plan.workers[index].host.name.clone();
        sim.host(name, move || {
            let (process, registry) = (Rc::clone(&process), registry.clone());
            let (plan, model) = (Rc::clone(&plan), Arc::clone(&model));
            async move {
                let worker = &plan.workers[index];
                let host = &worker.host;
                let health = Health::new();
                let life = process.begin(&health);
                let killed = process.killed.borrow().clone();
                let connections = Connections::default();
                let world = connections.world(seed(&plan, &host.name, life), planted);
                let membership = Membership {
                    registry,
                    worker_id: format!("{}.{life}", host.name),
                    address: format!("{}:{PORT}", host.name),
                };
                let serving = Worker {
                    role: worker.role,
                    model,
                    profile: worker.profile.clone(),
                    watch: Watch {
                        vanish: killed.clone(),
                        ..Watch::default()
                    },
                };
                let incoming = connections.incoming().await?;
                let shutdown = process.shutdown.borrow().clone();
                let serving = serving.serve_in_world(world, incoming, membership, health, shutdown);
                let life = async {
                    serving.await?;
                    process.ended(&connections).await
                };
                tokio::select! {
                    biased;
                    ended = life => ended,
                    never = clock(host) => match never {},
                    never = end(&killed, &connections) => match never {},
                }
            }
        });
        shown
    }

    pub(crate) fn coordinator(
        &self,
        sim: &mut Sim<'_>,
        index: usize,
        registry: &Registry,
    ) -> Rc<Process> {
        let process = Rc::new(Process::default());
        let (shown, registry) = (Rc::clone(&process), registry.clone());
        let (plan, planted) = (Rc::clone(&self.plan), self.planted);
        let name = plan.coordinators[index].name.clone();
        sim.host(name, move || {
            let (process, registry) = (Rc::clone(&process), registry.clone());
            let plan = Rc::clone(&plan);
            async move {
                let host = &plan.coordinators[index];
                let health = Health::new();
                let life = process.begin(&health);
                let killed = process.killed.borrow().clone();
                let connections = Connections::default();
                let world = connections.world(seed(&plan, &host.name, life), planted);
                let mut metrics = Metrics::new();
                let counters = CoordinatorMetrics::register(&mut metrics);
                process.series.replace(Some(metrics.finish()));
                let settings = settings(host).into_plan()?;
                let shutdown = process.shutdown.borrow().clone();
                let incoming = connections.incoming().await?;
                let serving = lava_coordinator::run_in_world(
                    world, settings, registry, incoming, counters, health, shutdown,
                );
                let life = async {
                    serving.await?;
                    process.ended(&connections).await
                };
                tokio::select! {
                    biased;
                    ended = life => ended,
                    never = clock(host) => match never {},
                    never = end(&killed, &connections) => match never {},
                }
            }
        });
        shown
    }
}

/// Short times, so that much happens in a short run.
fn settings(host: &plan::Host) -> Config {
    let mut config = Config::default();
    config.drain.timeout_ms = host.drain_timeout.as_millis() as u64;
    config.workers.probe_interval_ms = 200;
    config.workers.probe_timeout_ms = 400;
    config.workers.connect_timeout_ms = 300;
    config.workers.keep_alive_ms = 400;
    config.retry.attempts_max = 12;
    config.retry.percent = 1000;
    config.retry.pause_ms = 5;
    config.retry.place_wait_ms = 3000;
    config.retry.reserve_ms = 600;
    config.retry.silence_ms = 800;
    config
}

/// Every process has random numbers of its own.
fn seed(plan: &Plan, host: &str, life: u64) -> u64 {
    let number = xxhash_rust::xxh3::xxh3_64_with_seed(host.as_bytes(), plan.seed);
    number.wrapping_add(life)
}

/// Lets the host's clock run faster than others, and jump.
async fn clock(host: &plan::Host) -> Infallible {
    const EVERY: Duration = Duration::from_millis(100);
    let mut jumps = host.jumps.clone();
    jumps.sort();
    let mut jumps = jumps.into_iter().peekable();
    loop {
        sleep(EVERY).await;
        if !host.drift.is_zero() {
            advance(host.drift).await;
        }
        let now = turmoil::sim_elapsed().unwrap_or_default();
        while let Some((_, by)) = jumps.next_if(|(at, _)| *at + plan::SETTLED <= now) {
            advance(by).await;
        }
    }
}

/// Closes the connections of a process that is killed. What it still does is seen by nobody, until its host is taken down.
async fn end(killed: &CancellationToken, connections: &Connections) -> Infallible {
    killed.cancelled().await;
    connections.close();
    std::future::pending().await
}
