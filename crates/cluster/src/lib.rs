//! Which workers there are: their addresses, and news when one comes or goes. This crate refuses to
//! know what a worker does or whether it answers; the coordinator finds that out by asking. Workers
//! register themselves, the coordinator watches.
//!
//! The registry lives in memory. It serves a fixed list of addresses, and all roles in one process.

#![forbid(unsafe_code)]

mod member;
mod registry;

pub use member::Member;
pub use registry::{Registration, Registry};
