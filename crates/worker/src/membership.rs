//! A worker's place in the cluster.

use lava_cluster::{Registration, Registry};
use lava_node::Health;

/// Under which id and address a worker registers, and where.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Where coordinators look.
    pub registry: Registry,
    /// Id of this process.
    pub worker_id: String,
    /// host:port of its gRPC port, as others reach it.
    pub address: String,
}

impl Membership {
    pub(crate) fn register(self, health: &Health) -> Registration {
        let Self {
            registry,
            worker_id,
            address,
        } = self;
        registry.register(worker_id, address, health)
    }
}
