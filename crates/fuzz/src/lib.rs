//! Fuzz targets: what a stranger can send, put through the code that takes it in, and the laws that must hold whatever
//! it was. A target is a function of bytes that panics where a law is broken; its corpus lies in `corpus/`, by its
//! name. `cargo xtask fuzz` lets libFuzzer look for new inputs, and the tests replay all that are known.
//!
//! This crate knows the laws and refuses to know how inputs are found. No program uses it.

#![forbid(unsafe_code)]

mod target;

mod frames;

mod ship;

mod replies;

mod lanes;

mod attempts;

mod requests;

mod descriptions;

mod events;

mod records;

mod texts;

mod models;

mod toy;

mod streams;

mod cursor;

mod memory;

pub use target::{TARGETS, Target};
pub use texts::may_panic;
