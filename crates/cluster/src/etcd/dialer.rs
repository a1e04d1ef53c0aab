//! Which node is asked next, and after which pause.

use std::time::Duration;

use lava_node::Backoff;
use tokio::time::sleep;

use super::Etcd;
use super::session::{Session, SessionError};

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    most: Duration::from_secs(5),
};

/// Begins the sessions of one task, and tells the log when etcd goes out of reach and when it is back.
pub(super) struct Dialer {
    etcd: Etcd,
    /// For the log.
    part: &'static str,
    /// Index of the node to ask, beyond the last one wraps around. The first is random, so that the
    /// processes of a cluster spread over the nodes.
    node: usize,
    /// Sessions in a row that failed before they [succeeded](Dialer::succeeded).
    failures: u32,
}

impl Dialer {
    pub(super) fn new(etcd: Etcd, part: &'static str) -> Dialer {
        Dialer {
            etcd,
            part,
            node: random() as usize,
            failures: 0,
        }
    }

    pub(super) async fn dial(&self) -> Result<Session, SessionError> {
        Session::begin(&self.etcd.plan, self.endpoint(), &self.etcd.metrics).await
    }

    /// The session does what it is for.
    pub(super) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!(
                part = self.part,
                endpoint = self.endpoint(),
                failures = self.failures,
                "etcd is back"
            );
        }
        self.failures = 0;
    }

    /// The session has ended; waits until it is time for the next one.
    pub(super) async fn failed(&mut self, error: &SessionError) {
        self.etcd.metrics.connected.set(0);
        self.etcd.metrics.failures.inc();
        let (part, endpoint) = (self.part, self.endpoint());
        // The first of an outage tells it all to operators; the others are for whoever looks closer.
        if self.failures == 0 {
            tracing::warn!(part, endpoint, %error, "a session with etcd failed; it is tried again");
        } else {
            tracing::debug!(part, endpoint, %error, "a session with etcd failed");
        }
        self.failures = self.failures.saturating_add(1);
        self.node = self.node.wrapping_add(1);
        sleep(BACKOFF.pause(self.failures, random())).await;
    }

    fn endpoint(&self) -> &str {
        let endpoints = &self.etcd.plan.endpoints;
        &endpoints[self.node % endpoints.len()]
    }
}

/// A system without random numbers waits the longest pauses.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
