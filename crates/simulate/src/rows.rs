//! Rows of noise.

use std::ops::Range;

use lava_kv::{CacheShape, RowSource};

pub(crate) struct Noise(pub(crate) CacheShape);

impl RowSource for Noise {
    fn position(&self, _table: usize, row: usize) -> u32 {
        (row - self.0.window_rows) as u32
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        let bytes = self.0.kv_heads * self.0.format.mean_bytes(self.0.head_dim);
        out.resize(out.len() + bytes, layer as u8);
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        let format = match rows.start < self.0.wide_rows {
            true => self.0.format.wide(),
            false => self.0.format,
        };
        let bytes = rows.len() * format.entry_bytes(self.0.head_dim);
        out.resize(out.len() + bytes, (table + rows.start) as u8);
    }
}
