//! What a process holds of requests. Plain functions over its `/metrics`.

use anyhow::{Result, bail};

use crate::cluster::member::Kind;
use crate::cluster::metrics::value;

/// Gauges that every process of a kind has, and that are 0 when it holds nothing. Only real workers have the second list.
fn gauges(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Etcd => (&[], &[]),
        Kind::Coordinator => (
            &["lava_coordinator_flights", "lava_coordinator_flights_stuck"],
            &[],
        ),
        Kind::Prefill => (
            &[
                "lava_prefill_queue",
                "lava_prefill_queue_tokens",
                "lava_prefill_transfers",
            ],
            &[
                "lava_prefill_pages_reserved",
                "lava_prefill_cache_bytes_reserved",
            ],
        ),
        Kind::Decode => (
            &[
                "lava_decode_slots",
                "lava_decode_tickets",
                "lava_decode_transfers",
                "lava_decode_pages_reserved",
                "lava_decode_cache_bytes_reserved",
            ],
            &[],
        ),
    }
}

/// What is held, as `name value`.
///
/// # Errors
///
/// A gauge is not there, so nobody can say.
pub(super) fn held(kind: Kind, page: &str) -> Result<Vec<String>> {
    let (all, real) = gauges(kind);
    let mut held = Vec::new();
    for name in all.iter().chain(real) {
        match value(page, name) {
            Some(0.0) => {}
            Some(value) => held.push(format!("{name} {value}")),
            None if real.contains(name) => {}
            None => bail!("its /metrics have no {name}"),
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_zero_is_held_and_what_is_missing_is_an_error() {
        let page = "lava_coordinator_flights 0\nlava_coordinator_flights_stuck 2\n";
        let found = held(Kind::Coordinator, page).unwrap();
        assert_eq!(found, ["lava_coordinator_flights_stuck 2"]);
        let error = held(Kind::Decode, page).unwrap_err().to_string();
        assert!(error.contains("lava_decode_slots"), "{error}");
        let prefill =
            "lava_prefill_queue 0\nlava_prefill_queue_tokens 0\nlava_prefill_transfers 0\n";
        assert!(held(Kind::Prefill, prefill).unwrap().is_empty());
        let real = format!("{prefill}lava_prefill_pages_reserved 3\n");
        assert_eq!(
            held(Kind::Prefill, &real).unwrap(),
            ["lava_prefill_pages_reserved 3"]
        );
    }
}
