//! The decoder of caches: frames and the seal, as `crates/kv` takes them in. Checksums are put right where an input does
//! not ask for a wrong one, so that what lies behind that check is reached.
//!
//! An input is a shape (10 bytes) and then steps, each with a byte that says what it is.

use std::ops::Range;

use bytes::Bytes;
use lava_kv::{
    Arrived, CacheShape, Frame, Header, Inbound, Outbound, RowFormat, RowSource, Seal, Ticket,
    WireError,
};

use crate::cursor::{Cursor, write_part};
use crate::memory;

/// What a step is, by the lowest three bits of its first byte; the others mean a frame.
const REPEATED: u8 = 4;
const FOREIGN_CHECKSUM: u8 = 5;
const FOREIGN_SEQUENCE: u8 = 6;
const SEAL: u8 = 7;

/// Takes a transfer in as a decode worker does, and holds a ledger of its own beside it.
pub(crate) fn run(input: &[u8]) {
    let mut input = Cursor(input);
    let shape = shape(&mut input);
    let rows_max = u64::from(input.u16());
    let header = header(shape);
    let begun = Inbound::new(&header, &header, rows_max);
    let mut inbound = begun.expect("both ends agree");
    let mut ledger = Ledger::new(shape);
    let mut payload = Bytes::new();
    while !input.is_empty() {
        let step = input.u8();
        if step & 7 == SEAL {
            return ledger.check_seal(&inbound, step >> 3, input.u32());
        }
        // The same rows once more, at the ends of their tables.
        if step & 7 != REPEATED {
            payload = Bytes::copy_from_slice(input.part());
        }
        let mut frame = Frame {
            sequence: ledger.frames,
            checksum: 0,
            payload: payload.clone(),
        };
        frame.checksum = right_checksum(&mut inbound, &frame);
        match step & 7 {
            FOREIGN_CHECKSUM => {
                frame.checksum ^= 1 << (step >> 3);
                let error = inbound
                    .accept(&frame)
                    .expect_err("a wrong checksum is refused");
                assert!(matches!(error, WireError::Corrupt { .. }), "{error}");
                return;
            }
            FOREIGN_SEQUENCE => {
                frame.sequence ^= 1 << (step >> 3);
                let error = inbound
                    .accept(&frame)
                    .expect_err("a wrong sequence is refused");
                assert!(matches!(error, WireError::OutOfOrder { .. }), "{error}");
                return;
            }
            _ => {}
        }
        let most = (64 << 10) + 4096 * shape.tables() + 4 * frame.payload.len();
        let arrived = memory::within(most, || inbound.accept(&frame));
        match arrived {
            Ok(arrived) => ledger.check_frame(&frame.payload, &arrived, rows_max),
            // Everything received is dropped then.
            Err(WireError::Malformed { .. } | WireError::ExceedsReservation { .. }) => return,
            Err(error) => panic!("a frame in its turn with the right checksum: {error}"),
        }
        assert_eq!(inbound.rows(), ledger.rows());
    }
}

/// The checksum is private; the refusal of a wrong one tells it.
fn right_checksum(inbound: &mut Inbound, frame: &Frame) -> u64 {
    match inbound.accept(frame) {
        Err(WireError::Corrupt { expected, .. }) => expected,
        other => panic!("checksum 0 was to be wrong: {other:?}"),
    }
}

/// What arrived, kept by somebody who knows the front page of `lava_kv` and not its code.
struct Ledger {
    shape: CacheShape,
    frames: u32,
    layers: usize,
    /// Of each table.
    received: Vec<usize>,
}

impl Ledger {
    fn new(shape: CacheShape) -> Self {
        Self {
            shape,
            frames: 0,
            layers: 0,
            received: vec![0; shape.tables()],
        }
    }

    fn rows(&self) -> u64 {
        self.received.iter().sum::<usize>() as u64
    }

    /// The frame says what the payload says, continues every table where it ended, and stays within all bounds.
    fn check_frame(&mut self, payload: &[u8], arrived: &Arrived<'_>, rows_max: u64) {
        let shape = self.shape;
        let mut again = Vec::new();
        let layers = layers_of(payload);
        assert!(self.layers <= layers && layers <= shape.layers);
        write_varint(&mut again, layers);
        let new_tables = self.layers * shape.kv_heads..layers * shape.kv_heads;
        let means: Vec<usize> = arrived
            .means
            .iter()
            .map(|mean| mean.layer * shape.kv_heads + mean.head)
            .collect();
        match shape.format.is_packed() {
            true => assert!(means.iter().copied().eq(new_tables), "{means:?}"),
            false => assert!(means.is_empty()),
        }
        for mean in &arrived.means {
            assert_eq!(mean.bytes.len(), shape.format.mean_bytes(shape.head_dim));
            again.extend(mean.bytes);
        }
        let before = self.received.clone();
        for group in &arrived.groups {
            let table = group.layer * shape.kv_heads + group.head;
            assert!(group.head < shape.kv_heads && group.layer < layers);
            assert_eq!(
                group.first_row, self.received[table],
                "tables grow at their ends"
            );
            assert!(group.rows > 0);
            let end = group.first_row + group.rows;
            assert!(end <= shape.tokens, "more rows than tokens");
            let is_wide = group.first_row < shape.wide_rows;
            assert!(!is_wide || end <= shape.wide_rows, "a group of two forms");
            let format = match is_wide {
                true => shape.format.wide(),
                false => shape.format,
            };
            assert_eq!(group.format, format);
            self.received[table] = end;
        }
        for (now, before) in self.received[..layers * shape.kv_heads].iter().zip(&before) {
            write_varint(&mut again, now - before);
        }
        for group in &arrived.groups {
            let positions: Vec<u32> = group.positions().collect();
            assert_eq!(positions.len(), group.rows);
            let outside = shape.tokens - shape.window_rows;
            for (row, &position) in (group.first_row..).zip(&positions) {
                if row < shape.window_rows {
                    assert_eq!(position as usize, outside + row);
                    continue;
                }
                assert!(
                    (position as usize) < outside,
                    "position {position} of {outside}"
                );
                let bytes = if shape.tokens <= 1 << 16 { 2 } else { 4 };
                again.extend(&position.to_le_bytes()[..bytes]);
            }
        }
        for group in &arrived.groups {
            let half = group.rows * group.format.entry_bytes(shape.head_dim) / 2;
            assert_eq!((group.keys.len(), group.values.len()), (half, half));
            again.extend(group.keys);
            again.extend(group.values);
        }
        assert_eq!(again, payload, "what is accepted has one form");
        assert!(self.rows() <= rows_max, "more rows than were reserved");
        self.layers = layers;
        self.frames += 1;
    }

    /// A right seal is accepted if and only if the cache is whole, and no other seal is.
    fn check_seal(&self, inbound: &Inbound, change: u8, first_token: u32) {
        let count = |&rows: &usize| u32::try_from(rows).expect("shapes are small");
        let mut seal = Seal {
            frames: self.frames,
            checksum: 0,
            rows: self.received.iter().map(count).collect(),
            first_token,
        };
        let Err(WireError::CorruptSeal { expected, .. }) = inbound.seal(&seal) else {
            panic!("checksum 0 was to be wrong");
        };
        seal.checksum = expected;
        let window = self.shape.window_rows;
        let is_whole =
            self.layers == self.shape.layers && self.received.iter().all(|&rows| rows >= window);
        match inbound.seal(&seal) {
            Ok(receipt) => {
                assert!(is_whole, "an incomplete cache was sealed");
                assert_eq!((receipt.rows, receipt.checksum), (self.rows(), expected));
            }
            Err(error) => assert!(!is_whole, "a whole cache was refused: {error}"),
        }
        let bit = 1u32 << change;
        let table = usize::from(change) % seal.rows.len();
        let mut others = vec![seal.clone(); 5];
        others[0].frames ^= bit;
        others[1].checksum ^= u64::from(bit);
        others[2].first_token ^= bit;
        others[3].rows[table] ^= bit;
        others[4].rows.push(bit);
        for other in others {
            inbound.seal(&other).expect_err("another seal");
        }
    }
}

/// The number that a payload begins with. Only asked of payloads that were accepted.
fn layers_of(payload: &[u8]) -> usize {
    let bytes = payload.iter().position(|byte| byte & 0x80 == 0);
    let bytes = &payload[..=bytes.expect("a number ends")];
    let numbers = bytes.iter().zip(0..);
    numbers
        .map(|(byte, index)| usize::from(byte & 0x7f) << (7 * index))
        .sum()
}

fn write_varint(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn shape(input: &mut Cursor<'_>) -> CacheShape {
    let format = RowFormat::ALL[input.within(0..=5)];
    let layers = input.within(1..=64);
    let kv_heads = input.within(1..=4);
    let head_dim = 2 * input.within(1..=4);
    let tokens = match input.u8() {
        // Positions of four bytes.
        255 => 70_000,
        _ => 1 + usize::from(input.u16()) % 1000,
    };
    let window_rows = input.within(0..=32).min(tokens);
    let pinned = input.within(0..=4);
    let wide_rows = match format.is_packed() {
        true => (window_rows + pinned).min(tokens),
        false => tokens,
    };
    CacheShape {
        layers,
        kv_heads,
        head_dim,
        tokens,
        window_rows,
        wide_rows,
        format,
    }
}

fn header(shape: CacheShape) -> Header {
    Header {
        ticket: Ticket([1; 16]),
        attempt: 2,
        prompt_digest: [3; 16],
        fingerprint: [4; 16],
        shape,
    }
}

/// Rows whose bytes count up.
struct Rows(CacheShape);

impl RowSource for Rows {
    fn position(&self, _: usize, row: usize) -> u32 {
        (row - self.0.window_rows) as u32
    }

    fn copy_means(&self, _: usize, out: &mut Vec<u8>) {
        let bytes = self.0.kv_heads * self.0.format.mean_bytes(self.0.head_dim);
        out.extend((0..bytes).map(|byte| byte as u8));
    }

    fn copy_rows(&self, _: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        for (format, rows) in self.0.split(rows) {
            let bytes = rows.len() * format.entry_bytes(self.0.head_dim);
            out.extend((0..bytes).map(|byte| byte as u8));
        }
    }
}

/// Whole transfers of real senders.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    // Format, L - 1, Hkv - 1, D / 2 - 1, whether N is 70,000, N - 1, W, pinned rows, rows reserved.
    let half: &[u8] = &[1, 1, 1, 1, 0, 39, 0, 4, 0, 255, 0];
    let packed: &[u8] = &[5, 2, 0, 3, 0, 39, 0, 4, 2, 255, 0];
    let long: &[u8] = &[4, 0, 1, 0, 255, 8, 1, 255, 0];
    let short: &[u8] = &[0, 1, 0, 0, 0, 2, 0, 8, 0, 64, 0];
    let kinds = [
        ("half", half, 4096),
        ("packed", packed, 64),
        ("long", long, 48),
        ("short", short, 4096),
    ];
    let transfers = kinds
        .into_iter()
        .map(|(name, begin, payload_bytes_max)| (name, transfer(begin, payload_bytes_max)));
    transfers.chain([("row-by-row", row_by_row())]).collect()
}

/// One table of six tokens, to the last row: one more is one frame more.
fn row_by_row() -> Vec<u8> {
    let begin: &[u8] = &[1, 0, 0, 0, 0, 5, 0, 2, 0, 255, 0];
    let shape = shape(&mut Cursor(begin));
    let mut outbound = Outbound::new(header(shape), 4096);
    let mut out = begin.to_vec();
    for rows in shape.window_rows..=shape.tokens {
        for frame in outbound.ship(&[rows], &Rows(shape)) {
            out.push(0);
            write_part(&mut out, &frame.payload);
        }
    }
    out.push(SEAL);
    out.extend(outbound.seal(7).first_token.to_le_bytes());
    out
}

fn transfer(begin: &[u8], payload_bytes_max: usize) -> Vec<u8> {
    let shape = shape(&mut Cursor(begin));
    let mut outbound = Outbound::new(header(shape), payload_bytes_max);
    let mut out = begin.to_vec();
    for layer in 0..shape.layers {
        // A row more of each table with every layer.
        let rows = (shape.window_rows + 1 + layer).min(shape.tokens);
        let certain = vec![rows; (layer + 1) * shape.kv_heads];
        for frame in outbound.ship(&certain, &Rows(shape)) {
            out.push(0);
            write_part(&mut out, &frame.payload);
        }
    }
    out.push(SEAL);
    out.extend(outbound.seal(7).first_token.to_le_bytes());
    out
}
