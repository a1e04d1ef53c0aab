//! The compact cache of one sequence: for every layer and KV head its own rows, in pages.

use lava_kernels::PageRows;

use crate::pool::{Page, PageShape, Reservation};

/// Ragged rows of all (layer, KV head) pairs, drawn from one reservation. Rows are in no particular
/// order of position: keys carry their rotation, so attention does not care.
#[derive(Debug)]
pub struct RaggedCache {
    kv_heads: usize,
    /// `[L * Hkv]`.
    tables: Vec<PageTable>,
    reservation: Reservation,
    /// Position of the next token: the prompt's true length plus what was appended since.
    next_position: usize,
}

/// The rows of one (layer, KV head).
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<Page>,
    rows: usize,
}

impl RaggedCache {
    /// An empty cache for a prompt of `tokens` tokens. Pages are taken from `reservation`.
    pub(crate) fn new(
        layers: usize,
        kv_heads: usize,
        tokens: usize,
        reservation: Reservation,
    ) -> Self {
        Self {
            kv_heads,
            tables: (0..layers * kv_heads)
                .map(|_| PageTable::default())
                .collect(),
            reservation,
            next_position: tokens,
        }
    }

    /// Position of the next token.
    pub fn next_position(&self) -> usize {
        self.next_position
    }

    /// The rows of one KV head of one layer.
    pub fn table(&self, layer: usize, head: usize) -> &PageTable {
        &self.tables[layer * self.kv_heads + head]
    }

    /// The rows of all KV heads of one layer.
    pub fn layer(&self, layer: usize) -> &[PageTable] {
        &self.tables[layer * self.kv_heads..][..self.kv_heads]
    }

    /// Entries over all layers and heads.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes of the kept rows themselves, without the unused ends of pages.
    pub fn row_bytes(&self) -> usize {
        let shape = self.shape();
        self.rows() * 2 * shape.head_dim * shape.dtype.bytes()
    }

    /// Pages in use.
    pub fn pages(&self) -> usize {
        self.reservation.pages_taken()
    }

    /// Shape of the pages.
    pub fn shape(&self) -> PageShape {
        self.reservation.shape()
    }

    /// Adds one entry to a head: `key` and `value` are `[D]`.
    pub(crate) fn push(&mut self, layer: usize, head: usize, key: &[f32], value: &[f32]) {
        let shape = self.reservation.shape();
        let table = &mut self.tables[layer * self.kv_heads + head];
        if table.rows == table.pages.len() * shape.rows {
            table.pages.push(self.reservation.take());
        }
        let row = table.rows % shape.rows;
        let page = table.pages.last_mut().expect("a page was just ensured");
        page.write(shape, row, key, value);
        table.rows += 1;
    }

    /// Keeps the first `rows` entries of a head and frees the pages behind them.
    pub(crate) fn truncate(&mut self, layer: usize, head: usize, rows: usize) {
        let shape = self.reservation.shape();
        let table = &mut self.tables[layer * self.kv_heads + head];
        assert!(rows <= table.rows, "a truncation never adds rows");
        table.rows = rows;
        for page in table.pages.drain(rows.div_ceil(shape.rows)..) {
            self.reservation.give_back(page);
        }
    }

    /// A token was appended to every layer and head.
    pub(crate) fn advance(&mut self) {
        self.next_position += 1;
    }
}

impl Drop for RaggedCache {
    fn drop(&mut self) {
        for page in self.tables.drain(..).flat_map(|table| table.pages) {
            self.reservation.give_back(page);
        }
    }
}

impl PageTable {
    /// Entries.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The pages that hold them, in order.
    pub fn pages(&self) -> impl Iterator<Item = PageRows<'_>> {
        self.pages.iter().map(Page::rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PagePool;
    use lava_kernels::RowDtype;

    #[test]
    fn a_truncation_frees_whole_pages_and_a_drop_frees_all() {
        let shape = PageShape {
            rows: 4,
            head_dim: 2,
            dtype: RowDtype::F16,
        };
        let pool = PagePool::new(shape, 8);
        let mut cache = RaggedCache::new(1, 2, 0, pool.reserve(8).unwrap());
        for i in 0..11 {
            cache.push(0, 0, &[i as f32, 0.0], &[0.0, i as f32]);
        }
        cache.push(0, 1, &[0.0; 2], &[0.0; 2]);
        assert_eq!((cache.rows(), cache.pages()), (12, 4));
        cache.truncate(0, 0, 8);
        assert_eq!((cache.rows(), cache.pages()), (9, 3));
        cache.truncate(0, 0, 5);
        cache.push(0, 0, &[50.0, 0.0], &[0.0, 51.0]);
        let second = cache.table(0, 0).pages().nth(1).unwrap();
        let mut scratch = Vec::new();
        assert_eq!(second.widen(&mut scratch)[..4], [4.0, 0.0, 50.0, 0.0]);
        assert_eq!(cache.row_bytes(), 7 * 2 * 2 * 2);
        drop(cache);
        assert_eq!(pool.pages_reserved(), 0);
    }
}
