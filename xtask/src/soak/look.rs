//! What a server holds. Plain functions over its metrics, and its memory.

use anyhow::{Context, Result};

use crate::cluster::metrics;

/// Gauges that are not 0 at rest.
const STANDING: [&str; 6] = [
    "lava_coordinator_workers_ready",
    "lava_prefill_pages_total",
    "lava_decode_pages_total",
    "lava_prefill_cache_bytes_made",
    "lava_decode_cache_bytes_made",
    "lava_process_heap_bytes",
];

/// A server at one moment.
pub(super) struct Look {
    /// Gauges that count something held, as `name value`.
    pub(super) held: Vec<String>,
    /// Answers under way.
    pub(super) flights: f64,
    /// Cache pages in use, of both workers.
    pub(super) pages: f64,
    /// Memory of the pages that were ever in use at once. The pools keep it, up to their bound.
    pub(super) made_bytes: f64,
    /// Allocated and not freed.
    pub(super) heap_bytes: f64,
    /// What of it, and of everything else, is in memory.
    pub(super) resident_bytes: f64,
}

impl Look {
    pub(super) fn new(page: &str, resident_bytes: f64) -> Result<Look> {
        let value = |name: &str| {
            let value = metrics::value(page, name);
            value.with_context(|| format!("the server has no {name}"))
        };
        Ok(Look {
            held: held(page),
            flights: value("lava_coordinator_flights")?,
            pages: value("lava_prefill_pages_reserved")? + value("lava_decode_pages_reserved")?,
            made_bytes: value("lava_prefill_cache_bytes_made")?
                + value("lava_decode_cache_bytes_made")?,
            heap_bytes: value("lava_process_heap_bytes")?,
            resident_bytes,
        })
    }
}

/// Every gauge but the standing ones; one that is added later is looked at too.
fn held(page: &str) -> Vec<String> {
    let is_gauge = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or(line);
        !STANDING.contains(&name) && page.contains(&format!("# TYPE {name} gauge\n"))
    };
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let of_gauges = lines.filter(is_gauge);
    of_gauges
        .filter(|line| !line.ends_with(" 0"))
        .map(str::to_owned)
        .collect()
}

/// Where clients left, in words.
pub(super) fn cancels(page: &str) -> String {
    let stage = |line: &str| {
        let (role, rest) = line
            .strip_prefix("lava_")?
            .split_once("_cancelled_total{stage=\"")?;
        let (stage, count) = rest.split_once("\"} ")?;
        Some(format!("{role} worker's {stage} {count}"))
    };
    let stages: Vec<String> = page.lines().filter_map(stage).collect();
    format!("clients left in the {}", stages.join(", "))
}

/// Memory that a process has now, as Linux tells.
pub(super) fn resident_bytes(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    resident(&status).with_context(|| format!("{file} says no VmRSS"))
}

fn resident(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE lava_coordinator_flights gauge\nlava_coordinator_flights 0\n\
        # TYPE lava_coordinator_workers_ready gauge\nlava_coordinator_workers_ready{role=\"decode\"} 1\n\
        # TYPE lava_decode_pages_reserved gauge\nlava_decode_pages_reserved 12\n\
        # TYPE lava_prefill_pages_reserved gauge\nlava_prefill_pages_reserved 3\n\
        # TYPE lava_decode_new gauge\nlava_decode_new{of=\"x\"} 1\n\
        # TYPE lava_prefill_cache_bytes_made gauge\nlava_prefill_cache_bytes_made 100\n\
        # TYPE lava_decode_cache_bytes_made gauge\nlava_decode_cache_bytes_made 500\n\
        # TYPE lava_process_heap_bytes gauge\nlava_process_heap_bytes 7000\n\
        # TYPE lava_decode_cancelled counter\nlava_decode_cancelled_total{stage=\"decode\"} 4\n# EOF\n";

    #[test]
    fn all_gauges_but_the_standing_ones_are_held() {
        let look = Look::new(PAGE, 1.0).unwrap();
        assert_eq!(
            look.held,
            [
                "lava_decode_pages_reserved 12",
                "lava_prefill_pages_reserved 3",
                "lava_decode_new{of=\"x\"} 1"
            ]
        );
        assert_eq!(
            (look.pages, look.made_bytes, look.heap_bytes),
            (15.0, 600.0, 7000.0)
        );
        assert_eq!(
            cancels(PAGE),
            "clients left in the decode worker's decode 4"
        );
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tlava\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(resident(status), Some(2.0 * 1024.0 * 1024.0));
        assert_eq!(resident("Name:\tlava\n"), None);
    }
}
