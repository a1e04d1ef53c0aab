//! A registry in etcd: a worker's record is a key under a lease that the worker renews, and a follower
//! lists the keys and watches them.
//!
//! Everything is a session with one node at a time. Whatever goes wrong ends the session, and the next one
//! begins from scratch, on the next node: with a new connection, since a frozen node keeps an old one open,
//! and a new authentication, since the tokens of etcd die with its process. There is no retry inside a
//! session, so there is one way back from every fault.

// In reading order.
mod config;

pub(crate) mod record;

mod session;

mod options;

mod dialer;

mod registration;

mod view;

mod follow;

use std::sync::Arc;

use lava_node::Health;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::incarnations::Incarnations;
use crate::{ClusterMetrics, Members};

pub use config::{EtcdConfig, EtcdPlan};
pub(crate) use registration::Registration;

/// What the tasks of this process share. Clones share it too.
#[derive(Debug, Clone)]
pub struct Etcd {
    plan: Arc<EtcdPlan>,
    metrics: ClusterMetrics,
    incarnations: Incarnations,
}

impl Etcd {
    pub(crate) fn new(plan: EtcdPlan, metrics: ClusterMetrics) -> Etcd {
        Etcd {
            plan: Arc::new(plan),
            metrics,
            incarnations: Incarnations::default(),
        }
    }

    pub(crate) fn register(
        &self,
        worker: String,
        address: String,
        health: &Health,
    ) -> Registration {
        registration::begin(self.clone(), worker, address, health)
    }

    pub(crate) fn follow(
        &self,
        health: &Health,
    ) -> (watch::Receiver<Arc<Members>>, AbortOnDropHandle<()>) {
        follow::begin(self.clone(), health)
    }
}
