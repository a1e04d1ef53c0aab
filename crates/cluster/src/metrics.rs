//! What a process counts of its registry. Every name begins with `lava_registry_`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// The counters of a registry in etcd. Clones share them.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    /// 1 while the last exchange with etcd went well, or else 0.
    pub(crate) connected: Gauge,
    /// Sessions with etcd that failed, at their beginning or later.
    pub(crate) failures: Counter,
    /// Records that this process has written.
    pub(crate) registrations: Counter,
    /// Members as they were last seen; 0 in a process that does not follow them.
    pub(crate) members: Gauge,
}

impl ClusterMetrics {
    /// Registers everything in the process's list.
    pub fn register(metrics: &mut lava_node::Metrics) -> ClusterMetrics {
        let new = ClusterMetrics {
            connected: Gauge::default(),
            failures: Counter::default(),
            registrations: Counter::default(),
            members: Gauge::default(),
        };
        let list = metrics.sub_registry("registry");
        list.register(
            "connected",
            "1 while the last exchange with etcd went well",
            new.connected.clone(),
        );
        list.register(
            "failures",
            "Sessions with etcd that failed",
            new.failures.clone(),
        );
        list.register(
            "registrations",
            "Records written to etcd",
            new.registrations.clone(),
        );
        list.register(
            "members",
            "Members as they were last seen",
            new.members.clone(),
        );
        new
    }
}
