//! How much memory there is.

use sysinfo::System;

/// Bytes that this process may use: the limit of its control group, or else all of the machine. `None` if the
/// system does not say.
pub fn memory_bytes() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let all = system.total_memory();
    let limit = system.cgroup_limits().map(|group| group.total_memory);
    let bytes = limit
        .filter(|&limit| limit > 0)
        .map_or(all, |limit| limit.min(all));
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_how_much_it_has() {
        let bytes = memory_bytes().unwrap();
        assert!((1 << 26..1 << 50).contains(&bytes), "{bytes}");
    }
}
