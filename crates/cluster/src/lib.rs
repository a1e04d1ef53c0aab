//! Which workers there are: who they are and where, and news when one comes or goes. This crate refuses
//! to know what a worker does or whether it answers; the coordinator finds that out by asking. Workers
//! register themselves, coordinators follow.
//!
//! A registry lives in memory, for a fixed list of addresses and for all roles in one process, or in
//! etcd. What it says is news, not truth: a record that is gone may belong to a worker that only lost its
//! lease, and a record that is there to one that has died since.

#![forbid(unsafe_code)]

// In reading order.
mod record;

mod registry;

mod incarnations;

mod memory;

mod metrics;

mod etcd;

#[doc(hidden)]
pub mod fuzzing;

pub use etcd::{EtcdConfig, EtcdPlan};
pub use metrics::ClusterMetrics;
pub use record::{Members, WorkerRecord};
pub use registry::{Following, Registration, Registry};
