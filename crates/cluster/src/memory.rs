//! A registry in memory.

use std::sync::Arc;

use tokio::sync::watch;

use crate::incarnations::Incarnations;
use crate::{Members, WorkerRecord};

/// The members of this process's registry. Clones share them.
#[derive(Debug, Clone)]
pub struct Memory {
    members: Arc<watch::Sender<Arc<Members>>>,
    incarnations: Incarnations,
}

/// Holds a record; dropping it takes the record out, unless a later registration of the same worker has
/// replaced it.
#[derive(Debug)]
pub(crate) struct Registration {
    worker: String,
    incarnation: u64,
    memory: Memory,
}

impl Memory {
    pub(crate) fn of_addresses(addresses: impl IntoIterator<Item = String>) -> Memory {
        let record = |address: String| WorkerRecord {
            worker: None,
            address,
            incarnation: 0,
        };
        let members: Members = addresses
            .into_iter()
            .map(|address| (address.clone(), record(address)))
            .collect();
        Memory {
            members: Arc::new(watch::Sender::new(Arc::new(members))),
            incarnations: Incarnations::default(),
        }
    }

    pub(crate) fn register(&self, worker: String, address: String) -> Registration {
        let mut incarnation = 0;
        self.members.send_modify(|members| {
            // Under the lock of the members, so that the record of the newest stays.
            incarnation = self.incarnations.next(&worker);
            let record = WorkerRecord {
                worker: Some(worker.clone()),
                address,
                incarnation,
            };
            Arc::make_mut(members).insert(worker.clone(), record);
        });
        Registration {
            worker,
            incarnation,
            memory: self.clone(),
        }
    }

    pub(crate) fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.memory.members.send_if_modified(|members| {
            let current = members.get(&self.worker);
            let is_ours = current.is_some_and(|record| record.incarnation == self.incarnation);
            if is_ours {
                Arc::make_mut(members).remove(&self.worker);
            }
            is_ours
        });
    }
}
