use lava_kv::{CacheShape, Header, Inbound, Outbound, RowDtype, RowSource, Ticket};
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
            let rows: usize = inbound.accept(frame).unwrap().iter().map(|g| g.rows).sum();
            prop_assert!(rows > 0);
            let heads = 6 * shape.tables();
            prop_assert!(frame.payload.len() <= transfer.payload_bytes_max || rows == 1
                || frame.payload.len() <= heads + shape.row_bytes(1) + 4);
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

    fn copy_rows(&self, _table: usize, rows: std::ops::Range<usize>, out: &mut Vec<u8>) {
        out.resize(out.len() + self.0.row_bytes(rows.len()), 0);
    }
}

/// 30 layers of 3 heads of 64 in 16 bits, 128 rows of each, 5 % of a table left to each later layer.
#[test]
fn positions_and_counts_add_less_than_two_percent_to_rows_of_256_bytes() {
    let shape = CacheShape {
        layers: 30,
        kv_heads: 3,
        head_dim: 64,
        tokens: 4096,
        window_rows: 32,
        dtype: RowDtype::F16,
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
                true => 128,
                false => 100 + layer - table / shape.kv_heads,
            })
            .collect();
        outbound.ship(&certain, &Zeros(shape));
    }
    let rows = shape.row_bytes(outbound.rows() as usize) as f64;
    let overhead = outbound.payload_bytes() as f64 / rows;
    assert!((1.0..1.02).contains(&overhead), "{overhead}");
}
