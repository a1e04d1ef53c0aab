//! What every process needs around its role: it owns configuration from file, environment and
//! flags, the log on stderr, the metrics endpoint, health, shutdown, the supervision of tasks and
//! threads, and what comes from outside: connections and random numbers. It refuses to know roles, models, requests and our own protocol. The coordinator, the
//! prefill worker and the decode worker call it, in the order of the modules below.
//!
//! It reads no environment and keeps no statics: `main` passes in what it has read. Two calls act on
//! the whole process, so that only `main` makes them: [`telemetry::init`] and
//! [`Shutdown::on_signals`].

#![forbid(unsafe_code)]

// In reading order.
pub mod config;

mod overrides;

mod error;

pub mod telemetry;

mod metrics;

mod held;

mod backoff;

mod health;

pub mod http;

mod memory;

mod shutdown;

mod supervise;

mod world;

pub use backoff::Backoff;
pub use error::{ConfigError, Origin};
pub use health::{Health, State};
pub use held::Held;
pub use http::HttpConfig;
pub use memory::memory_bytes;
pub use metrics::Metrics;
pub use overrides::Override;
pub use shutdown::Shutdown;
pub use supervise::{supervise, supervise_thread};
pub use telemetry::{LogFormat, TelemetryConfig};
pub use world::{Planted, World};
