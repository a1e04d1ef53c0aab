//! The two ends of a registry, wherever it lives: a worker's registration and a coordinator's view.

use std::sync::Arc;

use lava_node::Health;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::etcd::{self, Etcd};
use crate::memory::{self, Memory};
use crate::{ClusterMetrics, EtcdPlan, Members};

/// Where workers register and coordinators look. Clones share it.
#[derive(Debug, Clone)]
pub enum Registry {
    /// In this process.
    Memory(Memory),
    /// In etcd.
    Etcd(Etcd),
}

/// Keeps a worker registered. Dropping it takes the record out, at once where that is possible, or else
/// when its lease runs out.
#[derive(Debug)]
#[must_use = "dropped at once, the worker is gone"]
pub struct Registration(Held);

#[derive(Debug)]
enum Held {
    Memory(memory::Registration),
    Etcd(etcd::Registration),
}

/// A view that is kept current until it is dropped.
#[derive(Debug)]
pub struct Following {
    members: watch::Receiver<Arc<Members>>,
    /// What keeps it current, where that takes a task.
    _follower: Option<AbortOnDropHandle<()>>,
}

impl Registry {
    /// One in memory, without members.
    pub fn memory() -> Registry {
        Registry::of_addresses([])
    }

    /// One in memory with a fixed list, which later registrations add to. Repeated addresses count once.
    pub fn of_addresses(addresses: impl IntoIterator<Item = String>) -> Registry {
        Registry::Memory(Memory::of_addresses(addresses))
    }

    /// One in etcd. Nothing is asked of etcd before somebody registers or follows.
    pub fn etcd(plan: EtcdPlan, metrics: ClusterMetrics) -> Registry {
        Registry::Etcd(Etcd::new(plan, metrics))
    }

    /// Registers the worker with this id, reachable at `address` (host:port), for as long as the answer
    /// lives. If the registry is out of reach, it is tried until it is back; a task that dies of a bug
    /// makes `health` fail. A later registration of the same worker in this process takes the record over.
    ///
    /// # Panics
    ///
    /// If the registry is in etcd and this is called outside a tokio runtime.
    pub fn register(&self, worker: String, address: String, health: &Health) -> Registration {
        Registration(match self {
            Registry::Memory(memory) => Held::Memory(memory.register(worker, address)),
            Registry::Etcd(etcd) => Held::Etcd(etcd.register(worker, address, health)),
        })
    }

    /// Follows the members; of a registry in etcd they are empty until it has answered. While it is out of
    /// reach the last known ones stay; a task that dies of a bug makes `health` fail.
    ///
    /// # Panics
    ///
    /// If the registry is in etcd and this is called outside a tokio runtime.
    pub fn follow(&self, health: &Health) -> Following {
        match self {
            Registry::Memory(memory) => Following {
                members: memory.members(),
                _follower: None,
            },
            Registry::Etcd(etcd) => {
                let (members, follower) = etcd.follow(health);
                Following {
                    members,
                    _follower: Some(follower),
                }
            }
        }
    }
}

impl Registration {
    /// Takes the record out and waits until that is done, within a bound.
    pub async fn withdraw(self) {
        match self.0 {
            Held::Memory(registration) => drop(registration),
            Held::Etcd(registration) => registration.withdraw().await,
        }
    }
}

impl Following {
    /// The members now.
    pub fn members(&mut self) -> Arc<Members> {
        Arc::clone(&self.members.borrow_and_update())
    }

    /// Waits for a change. A slow follower skips states and always gets the last one. Waits for ever once
    /// nobody can register any more.
    pub async fn changed(&mut self) {
        if self.members.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
