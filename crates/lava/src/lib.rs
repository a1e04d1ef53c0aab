//! The LAVa method of KV-cache eviction (arXiv 2509.09754), and the policies it is compared with, as
//! pure functions over plain data: it owns scores, entropies, budgets, rankings and the cascade that
//! re-cuts finished layers while prefill goes on. It refuses to know tensors, devices, models, wires
//! and clocks. The prefill engine asks [`Method::observes`] what to look at and calls
//! [`scores::layer_scores`] and [`Cascade::push_layer`] once per layer; whoever reserves memory for a
//! request calls [`rows_max`] or [`rows_peak`]; whoever lets one in turns its [`Budget`] into entries.
//!
//! An *entry* is one (KV head, position) pair of one layer: one key row and one value row. Axis
//! letters: `L` layers, `Hq` query heads, `Hkv` KV heads, `G = Hq/Hkv`, `N` prompt tokens, `W`
//! window, `n = N - W`, `D` head dim. Matrices are row-major slices without padding.

#![forbid(unsafe_code)]

// In reading order.
mod policy;

mod config;

mod method;

mod recipe;

mod shape;

pub mod scores;

mod unobserved;

pub mod entropy;

mod budget;

mod ranked;
pub mod ranking;

mod rule;

mod plan;

mod cascade;

mod rows;

mod request_budget;

mod error;

pub mod reference;

pub use budget::Cut;
pub use cascade::Cascade;
pub use config::{Config, Gqa, LayerWeight, Pool, Score, ValueNorm};
pub use error::Error;
pub use method::{Method, ObservedRows, Observes, ParseMethodError};
pub use plan::LayerPlan;
pub use policy::{Certainty, Policy, Profile, UnknownPolicy};
pub use ranked::{RankedLayer, RankingWanted};
pub use request_budget::{AlwaysKept, Budget, EntryBytes, ParseBudgetError};
pub use rows::{rows_max, rows_peak};
pub use scores::LayerScores;
pub use shape::Shape;
