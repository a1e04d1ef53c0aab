//! The compact cache of one sequence: for every layer and KV head its own rows, in pages.

use std::ops::Range;

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

/// A point in the life of a cache, to go back to.
#[derive(Debug, Clone)]
pub struct Mark {
    /// `[L * Hkv]`.
    rows: Vec<usize>,
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
    pub fn new(layers: usize, kv_heads: usize, tokens: usize, reservation: Reservation) -> Self {
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

    /// Pages set aside for it, in use or not.
    pub fn pages_reserved(&self) -> usize {
        self.reservation.pages()
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

    /// Adds entries to a head: `keys` and `values` are `[rows, D]` as pages hold them.
    ///
    /// # Panics
    /// If the two differ in length or are not whole rows, or the reservation is used up: whoever
    /// appends has checked both.
    pub fn append_rows(&mut self, layer: usize, head: usize, keys: &[u8], values: &[u8]) {
        let shape = self.reservation.shape();
        let row_bytes = shape.head_dim * shape.dtype.bytes();
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(row_bytes));
        let table = &mut self.tables[layer * self.kv_heads + head];
        let rows = keys.len() / row_bytes;
        let mut done = 0;
        while done < rows {
            let first = table.rows % shape.rows;
            if table.rows == table.pages.len() * shape.rows {
                table.pages.push(self.reservation.take());
            }
            let take = (rows - done).min(shape.rows - first);
            let page = table.pages.last_mut().expect("a page was just ensured");
            for (half, source) in [keys, values].into_iter().enumerate() {
                page.bytes_mut(shape, half, first..first + take)
                    .copy_from_slice(&source[done * row_bytes..(done + take) * row_bytes]);
            }
            table.rows += take;
            done += take;
        }
    }

    /// Appends to `out` the keys of the entries `rows` of a head, then their values, as pages hold
    /// them.
    ///
    /// # Panics
    /// If the head has fewer entries.
    pub fn copy_rows(&self, layer: usize, head: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        let shape = self.reservation.shape();
        let table = self.table(layer, head);
        assert!(rows.end <= table.rows, "only rows that exist are copied");
        for half in 0..2 {
            let mut row = rows.start;
            while row < rows.end {
                let first = row % shape.rows;
                let take = (rows.end - row).min(shape.rows - first);
                let page = &table.pages[row / shape.rows];
                out.extend_from_slice(page.bytes(shape, half, first..first + take));
                row += take;
            }
        }
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

    /// Where the cache stands now, for [`rewind`](Self::rewind).
    pub fn mark(&self) -> Mark {
        Mark {
            rows: self.tables.iter().map(|table| table.rows).collect(),
            next_position: self.next_position,
        }
    }

    /// Drops what was appended since `mark` was taken.
    ///
    /// # Panics
    /// If it is another cache's mark and this one has fewer rows somewhere.
    pub fn rewind(&mut self, mark: &Mark) {
        for (index, &rows) in mark.rows.iter().enumerate() {
            self.truncate(index / self.kv_heads, index % self.kv_heads, rows);
        }
        self.next_position = mark.next_position;
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
    use lava_kv::RowDtype;

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

    #[test]
    fn a_rewind_undoes_what_was_appended_and_gives_its_pages_back() {
        let shape = PageShape {
            rows: 4,
            head_dim: 2,
            dtype: RowDtype::F32,
        };
        let pool = PagePool::new(shape, 8);
        let mut cache = RaggedCache::new(1, 2, 7, pool.reserve(8).unwrap());
        let push = |cache: &mut RaggedCache, head: usize, value: usize| {
            cache.push(0, head, &[value as f32, 0.5], &[0.25, -(value as f32)]);
        };
        // One head ends in the middle of a page, the other with one.
        (0..6).for_each(|i| push(&mut cache, 0, i));
        (0..4).for_each(|i| push(&mut cache, 1, i));
        let contents = |cache: &RaggedCache| {
            let mut bytes = Vec::new();
            for head in 0..2 {
                cache.copy_rows(0, head, 0..cache.table(0, head).rows(), &mut bytes);
            }
            (bytes, cache.rows(), cache.pages(), cache.next_position())
        };
        let before = contents(&cache);
        assert_eq!((before.1, before.2, before.3), (10, 3, 7));
        let mark = cache.mark();
        for appended in [1, 5] {
            for i in 0..appended {
                push(&mut cache, 0, 100 + i);
                push(&mut cache, 1, 200 + i);
                cache.advance();
            }
            assert_eq!(cache.next_position(), 7 + appended);
            assert_eq!(cache.rows(), 10 + 2 * appended);
            cache.rewind(&mark);
            assert_eq!(contents(&cache), before, "after {appended} rows");
        }
        drop(cache);
        assert_eq!(pool.pages_reserved(), 0);
    }

    #[test]
    fn rows_that_are_copied_out_and_appended_again_are_the_same() {
        for dtype in [RowDtype::F16, RowDtype::Bf16, RowDtype::F32] {
            let shape = PageShape {
                rows: 4,
                head_dim: 2,
                dtype,
            };
            let pool = PagePool::new(shape, 20);
            let mut source = RaggedCache::new(1, 1, 0, pool.reserve(8).unwrap());
            for i in 0..11 {
                source.push(0, 0, &[i as f32, 0.5], &[0.25, -i as f32]);
            }
            let mut target = RaggedCache::new(1, 1, 0, pool.reserve(8).unwrap());
            for rows in [0..3, 3..4, 4..11] {
                let mut bytes = Vec::new();
                source.copy_rows(0, 0, rows, &mut bytes);
                let (keys, values) = bytes.split_at(bytes.len() / 2);
                target.append_rows(0, 0, keys, values);
            }
            let (mut all, mut copied) = (Vec::new(), Vec::new());
            source.copy_rows(0, 0, 0..11, &mut all);
            target.copy_rows(0, 0, 0..11, &mut copied);
            assert_eq!((target.rows(), all.len()), (11, 11 * 4 * dtype.bytes()));
            assert_eq!(all, copied);
        }
    }
}
