//! What prefill and decode workers have in common: the loaded model and how it is described to
//! coordinators, the checked form of an attempt, and the one place where their errors become gRPC
//! statuses. It refuses to know queues, caches in flight and anything that only one of the two does.

#![forbid(unsafe_code)]

mod attempt;
mod describe;
mod lane_series;
mod listen;
mod loaded;
mod membership;
mod model_config;
mod pool_series;
mod prefixes;
mod prompt;
mod recent;
mod refusal;
mod server;
mod stage;
mod token;
mod transfer_config;

pub use attempt::Attempt;
pub use describe::{Busy, Describe, Kept};
pub use lane_series::LaneSeries;
pub use listen::ListenSection;
pub use loaded::{Loaded, LoadedError};
pub use membership::Membership;
pub use model_config::{ComputeName, DeviceName, ModelSection, WeightsName};
pub use pool_series::PoolSeries;
pub use prefixes::prefixes_to_wire;
pub use prompt::prompt_ids;
pub use recent::RecentTokens;
pub use refusal::Refusal;
pub use server::{Drain, ServeError, serve, serve_incoming, server_builder};
pub use stage::Stage;
pub use token::{finish_after, sampled_to_wire};
pub use transfer_config::{LanePlan, LinkName, NoLanes, TransferSection};
