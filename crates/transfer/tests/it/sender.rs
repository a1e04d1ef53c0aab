//! A small cache and its parts, as a prefill worker would make them.

use std::ops::Range;
use std::time::Duration;

use lava_kv::{CacheShape, Header, Outbound, Receipt, RowFormat, RowSource, Ticket};
use lava_transfer::{Link, Part, Sent, ShipError, ship};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SHAPE: CacheShape = CacheShape {
    layers: 4,
    kv_heads: 2,
    head_dim: 8,
    tokens: 100,
    window_rows: 4,
    wide_rows: 4,
    format: RowFormat::Int8,
};

pub(crate) const ROWS: usize = 4 * 2 * 20;

pub(crate) fn header(ticket: u8) -> Header {
    Header {
        ticket: Ticket([ticket; 16]),
        attempt: 1,
        prompt_digest: [2; 16],
        fingerprint: [3; 16],
        shape: SHAPE,
    }
}

struct Counting;

impl RowSource for Counting {
    fn position(&self, table: usize, row: usize) -> u32 {
        ((table * 7 + row) % 96) as u32
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        let bytes = SHAPE.kv_heads * SHAPE.format.mean_bytes(SHAPE.head_dim);
        out.extend((0..bytes).map(|i| (i + layer) as u8));
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        for (format, rows) in SHAPE.split(rows) {
            let bytes = rows.len() * format.entry_bytes(SHAPE.head_dim);
            out.extend((0..bytes).map(|i| (i + table + rows.start) as u8));
        }
    }
}

/// Frames and seal of a cache with 20 rows in every table, in small frames.
pub(crate) fn parts(header: Header) -> Vec<Part> {
    let mut outbound = Outbound::new(header, 512);
    let mut parts = Vec::new();
    for layer in 0..SHAPE.layers {
        let certain: Vec<usize> = (0..(layer + 1) * SHAPE.kv_heads)
            .map(|table| match layer + 1 == SHAPE.layers {
                true => 20,
                false => 10 + 2 * (layer - table / SHAPE.kv_heads),
            })
            .collect();
        parts.extend(
            outbound
                .ship(&certain, &Counting)
                .into_iter()
                .map(Part::Frame),
        );
    }
    parts.push(Part::Seal(outbound.seal(42)));
    parts
}

/// Ships `parts`; the channel is closed behind them.
pub(crate) async fn send(
    link: &Link,
    header: &Header,
    parts: Vec<Part>,
    deadline: Duration,
) -> (Result<Receipt, ShipError>, u64) {
    let (queue, waiting) = mpsc::channel(parts.len().max(1));
    for part in parts {
        queue.try_send(part).unwrap();
    }
    drop(queue);
    let sent = Sent::default();
    let deadline = Instant::now() + deadline;
    let result = timeout(PATIENCE, ship(link, header, waiting, &sent, deadline)).await;
    (
        result.expect("a transfer ends by its deadline"),
        sent.bytes(),
    )
}
