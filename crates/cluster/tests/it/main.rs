//! Registries in memory and in a real etcd, through everything that can happen to it. The times in here are
//! bounds on what must happen, or how long something must not happen.

mod cluster;
mod conformance;
mod etcd;
mod outages;
mod proxy;
mod security;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use lava_cluster::{ClusterMetrics, EtcdConfig, Following, Members, Registration, Registry};
use lava_node::{Health, Metrics};
use prometheus_client::encoding::text::encode;
use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The shortest lease that there is, so that what goes with one goes soon.
const TTL: Duration = Duration::from_secs(2);

/// A process of ours: all of its parts share a registry.
struct Process {
    registry: Registry,
    health: Health,
    metrics: Arc<prometheus_client::registry::Registry>,
}

/// A view of the members, and whether the tasks of its process live.
struct Follower {
    following: Following,
    health: Health,
}

impl Process {
    fn new(config: EtcdConfig) -> Process {
        let plan = config.into_plan().unwrap().expect("there are endpoints");
        let mut metrics = Metrics::new();
        let registry = Registry::etcd(plan, ClusterMetrics::register(&mut metrics));
        Process {
            registry,
            health: Health::new(),
            metrics: metrics.finish(),
        }
    }

    fn in_memory() -> Process {
        Process {
            registry: Registry::memory(),
            health: Health::new(),
            metrics: Metrics::new().finish(),
        }
    }

    fn follow(&self) -> Follower {
        Follower {
            following: self.registry.follow(&self.health),
            health: self.health.clone(),
        }
    }

    fn register(&self, worker: &str, address: &str) -> Registration {
        self.registry
            .register(worker.to_owned(), address.to_owned(), &self.health)
    }

    /// The number that `/metrics` shows under this name.
    fn metric(&self, name: &str) -> i64 {
        let mut text = String::new();
        encode(&mut text, &self.metrics).unwrap();
        let begin = format!("lava_registry_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        let number = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
        number.parse().unwrap()
    }

    async fn until_metric(&self, name: &str, is_wanted: impl Fn(i64) -> bool) {
        let reached = async {
            while !is_wanted(self.metric(name)) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} stays at {}", self.metric(name));
        }
    }
}

impl Follower {
    /// Waits until the members are as they should be.
    async fn until(&mut self, what: &str, is_wanted: impl Fn(&Members) -> bool) -> Arc<Members> {
        let reached = async {
            loop {
                let members = self.following.members();
                if is_wanted(&members) {
                    return members;
                }
                self.following.changed().await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        assert!(self.health.state().is_live(), "{}", self.health.state());
        reached
            .unwrap_or_else(|_| panic!("not in time: {what}; {}", told(&self.following.members())))
    }

    /// Waits until there is a worker with this address; returns its incarnation.
    async fn until_there(&mut self, worker: &str, address: &str) -> u64 {
        let is_there = |members: &Members| {
            let record = members.get(worker);
            record.is_some_and(|record| record.address == address)
        };
        let what = format!("{worker:?} at {address:?}");
        let members = self.until(&what, is_there).await;
        assert_eq!(members[worker].worker.as_deref(), Some(worker));
        members[worker].incarnation
    }

    /// Waits until the worker is there under a later incarnation than this one.
    async fn until_later(&mut self, worker: &str, incarnation: u64) -> u64 {
        let is_later = |members: &Members| {
            let record = members.get(worker);
            record.is_some_and(|record| record.incarnation > incarnation)
        };
        let what = format!("{worker:?} later than {incarnation}");
        self.until(&what, is_later).await[worker].incarnation
    }

    async fn until_gone(&mut self, worker: &str) {
        let is_gone = |members: &Members| !members.contains_key(worker);
        self.until(&format!("{worker:?} gone"), is_gone).await;
    }

    /// Holds for `time` after now, at every change.
    async fn stays(&mut self, time: Duration, what: &str, is_wanted: impl Fn(&Members) -> bool) {
        let broken = async {
            loop {
                let members = self.following.members();
                if !is_wanted(&members) {
                    return members;
                }
                self.following.changed().await;
            }
        };
        if let Ok(members) = timeout(time, broken).await {
            panic!("does not stay: {what}; {}", told(&members));
        }
        assert!(self.health.state().is_live(), "{}", self.health.state());
    }
}

fn told(members: &Members) -> String {
    let mut text = "the members are".to_owned();
    for (worker, record) in members {
        let (address, incarnation) = (&record.address, record.incarnation);
        write!(text, " {worker:?} at {address:?} ({incarnation})").unwrap();
    }
    text
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("not in time: {what}"))
}
