//! Times beside floors.

use std::time::Duration;

use lava_kernels::cuda::H100;
use serde_json::{Value, json};

use super::cases::Case;

/// What stands above [`Line::text`].
pub(crate) const HEADING: &str = "\
| kernel                | N or cache |    b |  B |  measured |     floor |  expected | measured / floor |   GB/s | TFLOP/s |
|-----------------------|-----------:|-----:|---:|----------:|----------:|----------:|-----------------:|-------:|--------:|";

/// A case that was timed.
pub(crate) struct Line<'a> {
    pub(crate) case: &'a Case,
    pub(crate) measured: Duration,
}

impl Line<'_> {
    /// A row of a table.
    pub(crate) fn text(&self) -> String {
        let Case {
            kernel,
            size,
            budget,
            batch,
            task,
        } = self.case;
        let work = task.work();
        let seconds = self.measured.as_secs_f64();
        let number = |number: &Option<usize>| number.map_or(String::new(), |n| n.to_string());
        format!(
            "| {kernel:<21} | {size:>10} | {:>4} | {:>2} | {:>9} | {:>9} | {:>9} | {:>16.1} | {:>6.0} | {:>7.1} |",
            number(budget),
            number(batch),
            time(seconds),
            time(work.floor(&H100)),
            time(work.expected(&H100)),
            seconds / work.floor(&H100),
            work.bytes / seconds / 1e9,
            work.operations / seconds / 1e12,
        )
    }

    /// An object of the same fields.
    pub(crate) fn json(&self, device: &str) -> Value {
        let Case {
            kernel,
            size,
            budget,
            batch,
            task,
        } = self.case;
        let work = task.work();
        let seconds = self.measured.as_secs_f64();
        json!({
            "device": device,
            "kernel": kernel,
            "size": size,
            "budget": budget,
            "batch": batch,
            "measured_seconds": seconds,
            "floor_seconds": work.floor(&H100),
            "expected_seconds": work.expected(&H100),
            "measured_per_floor": seconds / work.floor(&H100),
            "bytes_per_second": work.bytes / seconds,
            "operations_per_second": work.operations / seconds,
        })
    }
}

/// As in the floors of `kernels/README.md`.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
