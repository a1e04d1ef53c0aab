//! The coordinator: it accepts requests, turns text into ids, places each request on a prefill worker
//! and a decode worker, follows it through faults and streams the answer. It refuses to know tensors,
//! weights and the bytes of a cache, and builds without candle. Its own binary and the process with all
//! roles call [`run`].

#![forbid(unsafe_code)]

// In reading order.
mod config;

mod process;

mod run;

mod service;

mod request_id;

mod deadline;

mod convert;

mod texts;

mod snapshot;

mod placement;

mod prefixes;

mod admission;
mod breaker;

mod ledger;

mod roster;

mod retry_budget;

mod flight;

mod drive;

mod wire;

mod answer;

mod status;

mod metrics;

#[doc(hidden)]
pub mod fuzzing;

pub use config::{
    AdmissionConfig, Config, DefaultsConfig, DrainConfig, LimitsConfig, ListenConfig,
    PlacementConfig, Plan, RetryConfig, TenantConfig, WorkersConfig,
};
pub use metrics::CoordinatorMetrics;
pub use placement::PolicyName;
pub use process::process;
pub use run::{run, run_in_world};
