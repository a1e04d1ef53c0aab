//! The registry as one coordinator sees it: late, and with gaps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lava_cluster::{Members, Registration, Registry};
use lava_node::Health;

pub(crate) struct View {
    /// What the coordinator follows.
    pub(crate) registry: Registry,
    health: Health,
    /// By the workers' ids.
    held: BTreeMap<String, Registration>,
    late_by: Duration,
    /// Changes that have not arrived, and when they will.
    coming: VecDeque<(Duration, Arc<Members>)>,
    members: Arc<Members>,
    /// Names of hosts whose records are lost.
    pub(crate) lapsed: BTreeSet<String>,
}

impl View {
    pub(crate) fn new(late_by: Duration) -> View {
        View {
            registry: Registry::memory(),
            health: Health::new(),
            held: BTreeMap::new(),
            late_by,
            coming: VecDeque::new(),
            members: Arc::default(),
            lapsed: BTreeSet::new(),
        }
    }

    /// Brings the view to what it shows at `now`.
    pub(crate) fn follow(&mut self, now: Duration, truth: &Arc<Members>) {
        let newest = self
            .coming
            .back()
            .map_or(&self.members, |(_, newest)| newest);
        if !Arc::ptr_eq(newest, truth) {
            let arrives = now + self.late_by;
            self.coming.push_back((arrives, Arc::clone(truth)));
        }
        while let Some((_, members)) = self.coming.pop_front_if(|(arrives, _)| *arrives <= now) {
            self.members = members;
        }
        let lapsed = &self.lapsed;
        let shows = |address: &str| !lapsed.contains(address.split(':').next().unwrap_or_default());
        self.held.retain(|worker, _| {
            let record = self.members.get(worker);
            record.is_some_and(|record| shows(&record.address))
        });
        for (worker, record) in self.members.iter() {
            if shows(&record.address) && !self.held.contains_key(worker) {
                let address = record.address.clone();
                let registration = self
                    .registry
                    .register(worker.clone(), address, &self.health);
                self.held.insert(worker.clone(), registration);
            }
        }
    }
}
