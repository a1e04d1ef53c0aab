//! What a simulated worker holds, under the names of a real one's series.

use lava_node::Metrics;
use prometheus_client::metrics::gauge::Gauge;

use crate::worker::Role;

/// The gauges of a process's simulated workers, all of them together. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Requests that wait, run or are shipped.
    pub(crate) queue: Gauge,
    /// Prompt tokens of them.
    pub(crate) queue_tokens: Gauge,
    /// Transfers that are sent, or received.
    pub(crate) transfers: Gauge,
    /// Sequences that wait for their cache or run.
    pub(crate) slots: Gauge,
    /// Reservations whose transfer has not begun.
    pub(crate) tickets: Gauge,
    /// Cache pages set aside.
    pub(crate) pages: Gauge,
    /// Bytes of them.
    pub(crate) cache_bytes: Gauge,
}

impl Gauges {
    /// Gauges that the process shows.
    pub fn register(role: Role, metrics: &mut Metrics) -> Gauges {
        let all = Gauges::default();
        let (prefix, series) = match role {
            Role::Prefill => (
                "prefill",
                vec![
                    ("queue", "Requests that wait or run", &all.queue),
                    (
                        "queue_tokens",
                        "Prompt tokens of requests that wait or run",
                        &all.queue_tokens,
                    ),
                    (
                        "transfers",
                        "Transfers without a receipt yet",
                        &all.transfers,
                    ),
                ],
            ),
            Role::Decode => (
                "decode",
                vec![
                    (
                        "slots",
                        "Sequences that wait for their cache or run",
                        &all.slots,
                    ),
                    (
                        "tickets",
                        "Reservations whose transfer has not begun",
                        &all.tickets,
                    ),
                    ("transfers", "Transfers being received", &all.transfers),
                    ("pages_reserved", "Cache pages set aside", &all.pages),
                    (
                        "cache_bytes_reserved",
                        "Bytes of cache pages set aside",
                        &all.cache_bytes,
                    ),
                ],
            ),
        };
        let list = metrics.sub_registry(prefix);
        for (name, help, gauge) in series {
            list.register(name, help, gauge.clone());
        }
        all
    }
}
