//! Ports for processes that tests start.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// They lie below those that the system gives to connections, so that none of these takes the port of a process
/// that is down for a moment.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// Ports of loopback that nobody listens on and that were not given before: a process may take a second until it
/// listens on the one it was given.
///
/// # Panics
///
/// If all of them are given or taken.
pub fn free_ports(count: usize) -> Vec<u16> {
    let free =
        std::iter::from_fn(untried).filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    assert_eq!(ports.len(), count, "no port is left");
    ports
}

/// The next port that was not tried yet. The first is a random one: other processes look for ports too.
fn untried() -> Option<u16> {
    static START: OnceLock<u32> = OnceLock::new();
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let start = START.get_or_init(|| getrandom::u32().unwrap() % COUNT);
    let tried = TRIED.fetch_add(1, Ordering::Relaxed);
    (tried < COUNT).then(|| (FIRST + (start + tried) % COUNT) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_even_if_nobody_listens_on_it_yet() {
        let mut ports: Vec<u16> = (0..2_000).flat_map(|_| free_ports(1)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2_000);
    }
}
