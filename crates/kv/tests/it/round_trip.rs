use lava_kv::{CacheShape, Header, Inbound, Outbound, RowFormat, RowSource, Ticket};
use proptest::prelude::*;

use crate::plain::transfers;

proptest! {
    #[test]
    fn what_arrives_is_what_was_sent(transfer in transfers()) {
        let (frames, seal) = transfer.send();
        let received = transfer.receive(&transfer.header, &frames, &seal);
        prop_assert_eq!(received.unwrap(), transfer.cache);
    }

    #[test]
    fn frames_stay_within_their_size_or_hold_one_row(transfer in transfers()) {
        let shape = transfer.header.shape;
        let (frames, _) = transfer.send();
        let mut inbound = Inbound::new(&transfer.header, &transfer.header, u64::MAX).unwrap();
        for frame in &frames {
            let rows: usize = inbound.accept(frame).unwrap().groups.iter().map(|g| g.rows).sum();
            prop_assert!(rows > 0);
            let heads = 6 * shape.tables() + shape.tables() * shape.format.mean_bytes(shape.head_dim);
            let size = frame.payload.len();
            prop_assert!(size <= transfer.payload_bytes_max.max(shape.wide_entry_bytes() + 4) + heads);
        }
    }

    #[test]
    fn a_reservation_that_is_one_row_short_is_enforced(transfer in transfers()) {
        let (frames, _) = transfer.send();
        let rows_max = transfer.rows() - 1;
        let mut inbound = Inbound::new(&transfer.header, &transfer.header, rows_max).unwrap();
        let refused = frames.iter().find_map(|frame| inbound.accept(frame).err());
        prop_assert!(refused.unwrap().to_string().contains("are reserved"));
    }
}

struct Zeros(CacheShape);

impl RowSource for Zeros {
    fn position(&self, _table: usize, row: usize) -> u32 {
        (row - self.0.window_rows) as u32
    }

    fn copy_means(&self, _layer: usize, out: &mut Vec<u8>) {
        let bytes = self.0.kv_heads * self.0.format.mean_bytes(self.0.head_dim);
        out.resize(out.len() + bytes, 0);
    }

    fn copy_rows(&self, _table: usize, rows: std::ops::Range<usize>, out: &mut Vec<u8>) {
        for (format, rows) in self.0.split(rows) {
            out.resize(
                out.len() + rows.len() * format.entry_bytes(self.0.head_dim),
                0,
            );
        }
    }
}

/// The payload over the bytes of the elements of 30 layers of 3 heads of 64, 128 rows of each (as many as
/// that if they are packed), 5 % of a table left to each later layer.
fn overhead(format: RowFormat, rows: usize) -> f64 {
    let shape = CacheShape {
        layers: 30,
        kv_heads: 3,
        head_dim: 64,
        tokens: 4096,
        window_rows: 32,
        wide_rows: if format.is_packed() { 32 } else { 4096 },
        format,
    };
    let header = Header {
        ticket: Ticket([0; 16]),
        attempt: 0,
        prompt_digest: [0; 16],
        fingerprint: [0; 16],
        shape,
    };
    let mut outbound = Outbound::new(header, 1 << 20);
    for layer in 0..shape.layers {
        let certain: Vec<usize> = (0..(layer + 1) * shape.kv_heads)
            .map(|table| match layer + 1 == shape.layers {
                true => rows,
                false => rows - 28 + layer - table / shape.kv_heads,
            })
            .collect();
        outbound.ship(&certain, &Zeros(shape));
    }
    let elements = shape.element_bytes(outbound.table_rows().iter().copied());
    outbound.payload_bytes() as f64 / elements as f64
}

#[test]
fn positions_scales_means_and_counts_add_little_to_the_elements() {
    for (format, rows, most) in [
        (RowFormat::F16, 128, 1.02),
        (RowFormat::Int8, 216, 1.05),
        (RowFormat::Fp8, 216, 1.05),
        (RowFormat::Int4, 392, 1.10),
        (RowFormat::Int4, 4000, 1.10),
    ] {
        let overhead = overhead(format, rows);
        assert!(
            (1.0..most).contains(&overhead),
            "{format} {rows}: {overhead}"
        );
    }
}
