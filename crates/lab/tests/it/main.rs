//! Tests of the crate as its callers use it, one file per subject.

mod datasets;
mod load;
mod local;
mod metrics;
mod report;
mod results;
mod tasks;
