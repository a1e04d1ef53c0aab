//! A worker as the registry knows it.

use std::collections::BTreeMap;

/// Where a worker can be asked who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Id of the worker's process; none for an address that an operator listed, where any worker may be.
    pub worker: Option<String>,
    /// host:port of its gRPC port.
    pub address: String,
    /// Which registration of this process it is, from 1: a worker whose record was lost registers again
    /// under the next one. 0 for an address that an operator listed.
    pub incarnation: u64,
}

/// The records of a registry, by the worker's id, or by the address where there is none.
pub type Members = BTreeMap<String, WorkerRecord>;
