//! The machine that figures are from.

use std::time::Duration;

use anyhow::{Context, Result};

/// How long other work is looked for.
const WATCHED: Duration = Duration::from_secs(2);

/// Processor, cores and memory, in words.
pub(crate) fn describe() -> Result<String> {
    let read =
        |file: &str| std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
    let cores = std::thread::available_parallelism()?.get();
    Ok(words(
        &read("/proc/cpuinfo")?,
        &read("/proc/meminfo")?,
        cores,
    ))
}

/// Share of the processors that others use now.
pub(crate) fn busy() -> Result<f64> {
    let read = || std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat");
    let before = read()?;
    std::thread::sleep(WATCHED);
    busy_between(&before, &read()?)
        .context("/proc/stat does not begin with the times of all processors")
}

/// Between two states of /proc/stat, whose first line has the times of all processors since the start.
fn busy_between(before: &str, after: &str) -> Option<f64> {
    let times = |stat: &str| -> Option<Vec<f64>> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        line.split_whitespace()
            .map(|time| time.parse().ok())
            .collect()
    };
    let (before, after) = (times(before)?, times(after)?);
    // The first eight add up; what guests used is in them. Idle, and idle while a disk is waited for.
    let passed: Vec<f64> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .take(8)
        .collect();
    let all: f64 = passed.iter().sum();
    let idle = passed.get(3)? + passed.get(4)?;
    (all > 0.0).then(|| ((all - idle) / all).clamp(0.0, 1.0))
}

fn words(cpuinfo: &str, meminfo: &str, cores: usize) -> String {
    let model = field(cpuinfo, "model name").unwrap_or(std::env::consts::ARCH);
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
    let vectors = match (has("avx512f"), has("avx2")) {
        (true, _) => " (AVX-512)",
        (false, true) => " (AVX2)",
        (false, false) => "",
    };
    let cores = match cores {
        1 => "1 core".to_owned(),
        many => format!("{many} cores"),
    };
    let kib = field(meminfo, "MemTotal")
        .and_then(|size| size.trim_end_matches(" kB").parse::<u64>().ok());
    let memory = kib.map_or_else(
        || "memory unknown".to_owned(),
        |kib| format!("{:.1} GiB of memory", kib as f64 / f64::from(1 << 20)),
    );
    format!("{model}{vectors}, {cores}, {memory}")
}

/// The first value of a `key : value` file.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(found, _)| found.trim() == key)?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_idle_is_busy() {
        let (before, after) = (
            "cpu  10 0 5 100 5 0 0 0 9 9\ncpu0 1\n",
            "cpu  20 5 10 160 25 0 0 0 99 9\n",
        );
        assert_eq!(busy_between(before, after), Some(0.2));
        assert_eq!(busy_between(before, before), None);
        assert_eq!(busy_between(before, "cpu0 1 2 3 4 5\n"), None);
    }

    #[test]
    fn a_machine_is_described_as_far_as_it_says() {
        let cpu = "processor\t: 0\nmodel name\t: Some CPU 7\nflags\t\t: fpu avx avx2\n\nmodel name\t: another\n";
        let memory = "MemTotal:       25165824 kB\nMemFree: 1 kB\n";
        assert_eq!(
            words(cpu, memory, 2),
            "Some CPU 7 (AVX2), 2 cores, 24.0 GiB of memory"
        );
        let bare = words("processor : 0\n", "", 1);
        assert_eq!(
            bare,
            format!("{}, 1 core, memory unknown", std::env::consts::ARCH)
        );
    }
}
