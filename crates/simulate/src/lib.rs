//! Workers without a model: they speak the real protocol, reserve what real ones would, take the time that a profile says, ship rows of
//! noise, and make tokens that follow from the ones before them. They fail as they are told. What talks to them cannot tell; it is how
//! a coordinator is measured, and how a fleet of hundreds fits on one machine. They refuse to know placement; the command line starts
//! them.

#![forbid(unsafe_code)]

mod attempt;
mod decode;
mod fault;
mod gauges;
mod model;
mod prefill;
mod profile;
mod rows;
mod worker;

pub use fault::{FaultKind, FaultSection, FaultStage};
pub use gauges::Gauges;
pub use model::Model;
pub use profile::{DecodeTimes, ModelProfile, PrefillTimes, Profile, TransferTimes};
pub use worker::{Ended, Role, Watch, Worker};
