//! The sender's side of a transfer.

use std::ops::Range;

use bytes::Bytes;

use crate::chain::Chain;
use crate::frame::Frame;
use crate::header::Header;
use crate::seal::Seal;
use crate::varint;

/// Where the sender's rows lie.
pub trait RowSource {
    /// Position of a row that is not in the window; `row` counts the window.
    fn position(&self, table: usize, row: usize) -> u32;
    /// Appends the mean keys of a layer's heads to `out`; asked of packed formats only.
    fn copy_means(&self, layer: usize, out: &mut Vec<u8>);
    /// Appends the key rows of `rows` to `out`, then their value rows, each half as codes and then scales.
    /// All of them have one form.
    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>);
}

/// Cuts a growing cache into frames.
#[derive(Debug)]
pub struct Outbound {
    header: Header,
    chain: Chain,
    sequence: u32,
    payload_bytes_max: usize,
    /// Layers whose mean keys were shipped.
    layers: usize,
    /// Rows shipped of each table.
    shipped: Vec<usize>,
    payload_bytes: u64,
}

impl Outbound {
    /// Begins a transfer. A frame's payload has at most `payload_bytes_max` bytes, or one row.
    pub fn new(header: Header, payload_bytes_max: usize) -> Self {
        Self {
            chain: header.chain(),
            sequence: 0,
            payload_bytes_max,
            layers: 0,
            shipped: vec![0; header.shape.tables()],
            payload_bytes: 0,
            header,
        }
    }

    /// What the transfer began with.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of all payloads so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Rows shipped so far, of each table.
    pub fn table_rows(&self) -> &[usize] {
        &self.shipped
    }

    /// Rows shipped so far.
    pub fn rows(&self) -> u64 {
        self.shipped.iter().map(|&rows| rows as u64).sum()
    }

    /// Frames with what became certain since the last call. `certain` has the rows that are certain
    /// now, window included, for each table of the finished layers.
    ///
    /// # Panics
    /// If a table has fewer certain rows than were shipped: an order of eviction is broken.
    pub fn ship(&mut self, certain: &[usize], source: &impl RowSource) -> Vec<Frame> {
        let shape = self.header.shape;
        let heads = certain.len() * (5 + 1);
        let room_max = self.payload_bytes_max.saturating_sub(heads);
        let mut frames = Vec::new();
        let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
        let mut room = room_max;
        for (table, &end) in certain.iter().enumerate() {
            let start = self.shipped[table];
            assert!(start <= end, "shipped rows of table {table} were evicted");
            for (format, mut rows) in shape.split(start..end) {
                let row_bytes = format.entry_bytes(shape.head_dim) + shape.position_bytes();
                while !rows.is_empty() {
                    if room < row_bytes && !parts.is_empty() {
                        frames.push(self.frame(certain.len(), &parts, source));
                        parts.clear();
                        room = room_max;
                    }
                    let take = (room / row_bytes).clamp(1, rows.len());
                    parts.push((table, rows.start..rows.start + take));
                    rows.start += take;
                    room = room.saturating_sub(take * row_bytes);
                }
            }
        }
        if !parts.is_empty() {
            frames.push(self.frame(certain.len(), &parts, source));
        }
        frames
    }

    /// One frame with the rows of `parts`, which are in the order of tables. Each part has one form.
    fn frame(
        &mut self,
        tables: usize,
        parts: &[(usize, Range<usize>)],
        source: &impl RowSource,
    ) -> Frame {
        let shape = self.header.shape;
        let rows: usize = parts.iter().map(|(_, rows)| rows.len()).sum();
        let layers = tables / shape.kv_heads;
        let row_bytes = shape.wide_entry_bytes() + shape.position_bytes();
        let mut out = Vec::with_capacity(tables + 8 + rows * row_bytes);
        varint::write(&mut out, layers as u32);
        if shape.format.is_packed() {
            (self.layers..layers).for_each(|layer| source.copy_means(layer, &mut out));
        }
        self.layers = layers;
        let mut counts = vec![0; tables];
        parts
            .iter()
            .for_each(|(table, rows)| counts[*table] += rows.len() as u32);
        counts
            .iter()
            .for_each(|&rows| varint::write(&mut out, rows));
        for (table, rows) in parts {
            for row in rows.start.max(shape.window_rows)..rows.end {
                let position = source.position(*table, row).to_le_bytes();
                out.extend(&position[..shape.position_bytes()]);
            }
        }
        for (table, rows) in parts {
            source.copy_rows(*table, rows.clone(), &mut out);
            self.shipped[*table] = rows.end;
        }
        self.chain = self.chain.next(&out);
        self.payload_bytes += out.len() as u64;
        let frame = Frame {
            sequence: self.sequence,
            checksum: self.chain.checksum(),
            payload: Bytes::from(out),
        };
        self.sequence += 1;
        frame
    }

    /// Ends the transfer.
    ///
    /// # Panics
    /// If a table has more than `u32::MAX` rows; a prompt has fewer tokens.
    pub fn seal(self, first_token: u32) -> Seal {
        let count = |&rows: &usize| u32::try_from(rows).expect("N fits 32 bits");
        let rows = self.shipped.iter().map(count).collect();
        Seal::new(self.chain, self.sequence, rows, first_token)
    }
}
