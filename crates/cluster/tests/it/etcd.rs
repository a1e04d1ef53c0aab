//! How our processes and others reach a real etcd.

use etcd_client::Client;
use lava_cluster::EtcdConfig;
use lava_test_support::Etcd;

use crate::{TTL, within};

/// What tests of the registry want of an etcd.
pub(crate) trait Reachable {
    /// Settings for a process of ours that may use every node.
    fn config(&self) -> EtcdConfig;

    /// Somebody who is none of ours.
    async fn client(&self) -> Client;
}

impl Reachable for Etcd {
    fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.endpoints(),
            lease_ttl_ms: TTL.as_millis() as u64,
            request_timeout_ms: 700,
            ..EtcdConfig::default()
        }
    }

    async fn client(&self) -> Client {
        let connect = Client::connect([self.address(0)], None);
        within("a client of etcd", connect).await.unwrap()
    }
}
