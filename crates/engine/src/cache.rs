//! The compact cache of one sequence: for every layer and KV head its own rows, in pages.

use std::ops::Range;

use half::f16;
use lava_kernels::{HeadRows, mean_key, pack_rows, store};
use lava_kv::CacheShape;

use crate::device::DeviceCache;
use crate::pool::Reservation;
use crate::table::{Area, PageTable};

/// Ragged rows of all (layer, KV head) pairs, drawn from one reservation. Rows are in no particular
/// order of position: keys carry their rotation, so attention does not care.
#[derive(Debug)]
pub struct RaggedCache {
    shape: CacheShape,
    /// `[L * Hkv]`.
    pub(crate) tables: Vec<PageTable>,
    pub(crate) reservation: Reservation,
    /// Position of the next token: the prompt's true length plus what was appended since.
    next_position: usize,
    /// What there is of it on a GPU besides its pages, if it is on one.
    pub(crate) on_device: DeviceCache,
}

/// A point in the life of a cache, to go back to.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Wide and packed rows of each table, `[L * Hkv]`.
    rows: Vec<(usize, usize)>,
    next_position: usize,
}

impl RaggedCache {
    /// An empty cache. Pages are taken from `reservation`.
    pub fn new(shape: CacheShape, reservation: Reservation) -> Self {
        let area = |format| Area::new(format, shape.head_dim, reservation.page_bytes());
        let table = || PageTable {
            mean_key: vec![0.0; shape.head_dim],
            wide: area(shape.format.wide()),
            packed: area(shape.format),
        };
        Self {
            tables: (0..shape.tables()).map(|_| table()).collect(),
            next_position: shape.tokens,
            shape,
            reservation,
            on_device: DeviceCache::default(),
        }
    }

    /// Position of the next token.
    pub fn next_position(&self) -> usize {
        self.next_position
    }

    /// The rows of one KV head of one layer.
    pub fn table(&self, layer: usize, head: usize) -> &PageTable {
        &self.tables[layer * self.shape.kv_heads + head]
    }

    /// The rows of all KV heads of one layer.
    pub fn layer(&self, layer: usize) -> &[PageTable] {
        &self.tables[layer * self.shape.kv_heads..][..self.shape.kv_heads]
    }

    /// Entries over all layers and heads.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(PageTable::rows).sum()
    }

    /// Bytes of the kept rows themselves, scales and mean keys included, without the unused ends of pages.
    /// Appended rows do not count.
    pub fn stored_bytes(&self) -> usize {
        let appended = self.next_position - self.shape.tokens;
        let kept = self.tables.iter().map(|table| table.rows() - appended);
        self.shape.stored_bytes(kept)
    }

    /// Pages in use.
    pub fn pages(&self) -> usize {
        self.reservation.pages_taken()
    }

    /// Pages set aside for it, in use or not.
    pub fn pages_reserved(&self) -> usize {
        self.reservation.pages()
    }

    /// What it was made for.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// The area of a table's row, by its place among those that prefill leaves, and its place in there.
    pub(crate) fn place(&self, row: usize) -> (bool, usize) {
        match row.checked_sub(self.shape.wide_rows) {
            Some(row) => (true, row),
            None => (false, row),
        }
    }

    /// Adds the rows that prefill leaves to a head: those of `positions`, in their order, out of all rows of
    /// the layer.
    pub(crate) fn fill(
        &mut self,
        layer: usize,
        keys: HeadRows<'_>,
        values: HeadRows<'_>,
        positions: &[usize],
    ) {
        let head = keys.head;
        let (wide, others) = positions.split_at(self.shape.wide_rows.min(positions.len()));
        for &position in wide {
            self.append(layer, head, keys.row(position), values.row(position));
        }
        let format = self.shape.format;
        let table = &mut self.tables[layer * self.shape.kv_heads + head];
        if format.is_packed() {
            table.mean_key = mean_key(keys);
            let keys = pack_rows(format, keys, others, Some(&table.mean_key));
            let values = pack_rows(format, values, others, None);
            let packed = &mut table.packed;
            packed.append(&mut self.reservation, &keys, &values);
        }
    }

    /// Adds the row of a new token to a head: `key` and `value` are `[D]`.
    pub(crate) fn append(&mut self, layer: usize, head: usize, key: &[f32], value: &[f32]) {
        let format = self.shape.format.wide();
        let table = &mut self.tables[layer * self.shape.kv_heads + head];
        let rows = [key, value];
        table.wide.push(&mut self.reservation, |half, codes, _| {
            store(format, rows[half], codes);
        });
    }

    /// The mean key of a head as it came, `[D]` in half precision.
    ///
    /// # Panics
    /// If it has another length; whoever sets it has checked that.
    pub(crate) fn set_mean(&mut self, layer: usize, head: usize, bytes: &[u8]) {
        let mean = bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
        let table = &mut self.tables[layer * self.shape.kv_heads + head];
        table.mean_key = mean.collect();
        assert_eq!(table.mean_key.len(), self.shape.head_dim);
    }

    /// Appends the mean keys of a layer's heads to `out`, as [`set_mean`](Self::set_mean) reads them.
    pub(crate) fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        for table in self.layer(layer) {
            let halves = table.mean_key.iter().map(|&x| f16::from_f32(x));
            out.extend(halves.flat_map(f16::to_le_bytes));
        }
    }

    /// Adds entries to a head: `keys` and `values` as they lie on the wire, all of one form, which is that
    /// of the head's next row.
    ///
    /// # Panics
    /// If the two differ in length or are not whole rows, or the reservation is used up: whoever
    /// appends has checked both.
    pub(crate) fn append_rows(&mut self, layer: usize, head: usize, keys: &[u8], values: &[u8]) {
        let index = layer * self.shape.kv_heads + head;
        let (packed, _) = self.place(self.tables[index].rows());
        let table = &mut self.tables[index];
        let area = match packed {
            true => &mut table.packed,
            false => &mut table.wide,
        };
        area.append(&mut self.reservation, keys, values);
    }

    /// Appends to `out` the keys of the entries `rows` of a head, then their values, as they lie on the
    /// wire: all of one form, then those of the other.
    ///
    /// # Panics
    /// If the head has fewer entries.
    pub(crate) fn copy_rows(
        &self,
        layer: usize,
        head: usize,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) {
        let table = self.table(layer, head);
        for (_, rows) in self.shape.split(rows) {
            let (packed, start) = self.place(rows.start);
            let area = match packed {
                true => &table.packed,
                false => &table.wide,
            };
            area.copy(start..start + rows.len(), out);
        }
    }

    /// Keeps the first `rows` of the entries that prefill left of a head and frees the pages behind them.
    pub(crate) fn truncate(&mut self, layer: usize, head: usize, rows: usize) {
        let wide = rows.min(self.shape.wide_rows);
        let table = &mut self.tables[layer * self.shape.kv_heads + head];
        table.packed.truncate(&mut self.reservation, rows - wide);
        table.wide.truncate(&mut self.reservation, wide);
    }

    /// Where the cache stands now, for [`rewind`](Self::rewind).
    pub fn mark(&self) -> Mark {
        let rows = |table: &PageTable| (table.wide.rows(), table.packed.rows());
        Mark {
            rows: self.tables.iter().map(rows).collect(),
            next_position: self.next_position,
        }
    }

    /// Drops what was appended since `mark` was taken.
    ///
    /// # Panics
    /// If it is another cache's mark and this one has fewer rows somewhere.
    pub fn rewind(&mut self, mark: &Mark) {
        for (table, &(wide, packed)) in self.tables.iter_mut().zip(&mark.rows) {
            table.wide.truncate(&mut self.reservation, wide);
            table.packed.truncate(&mut self.reservation, packed);
        }
        self.next_position = mark.next_position;
        self.on_device.forget_pages();
    }

    /// A token was appended to every layer and head.
    pub(crate) fn advance(&mut self) {
        self.next_position += 1;
    }
}

impl Drop for RaggedCache {
    fn drop(&mut self) {
        for table in &mut self.tables {
            table.wide.truncate(&mut self.reservation, 0);
            table.packed.truncate(&mut self.reservation, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PagePool;
    use lava_kv::RowFormat;

    /// Heads of 8 elements, two rows of the window; pages of 4 rows in 16 bits.
    fn cache(pool: &PagePool, kv_heads: usize, tokens: usize, format: RowFormat) -> RaggedCache {
        let shape = CacheShape {
            layers: 1,
            kv_heads,
            head_dim: 8,
            tokens,
            window_rows: 2,
            wide_rows: if format.is_packed() { 2 } else { tokens },
            format,
        };
        RaggedCache::new(shape, pool.reserve(pool.pages()).unwrap())
    }

    fn pool() -> PagePool {
        PagePool::new(4 * RowFormat::F16.entry_bytes(8), 12)
    }

    /// Keys are `0, 1, ...`, values their negatives.
    fn fill(cache: &mut RaggedCache, head: usize, rows: usize) {
        let kv_heads = cache.layer(0).len();
        let all: Vec<f32> = (0..rows)
            .flat_map(|x| vec![x as f32; 8 * kv_heads])
            .collect();
        let negatives: Vec<f32> = all.iter().map(|x| -x).collect();
        let of = |all| HeadRows {
            all,
            kv_heads,
            head_dim: 8,
            head,
        };
        let positions: Vec<usize> = (0..rows).collect();
        cache.fill(0, of(&all), of(&negatives), &positions);
    }

    fn contents(cache: &RaggedCache) -> Vec<u8> {
        let mut bytes = Vec::new();
        cache.copy_means(0, &mut bytes);
        for (head, table) in cache.layer(0).iter().enumerate() {
            cache.copy_rows(0, head, 0..table.rows(), &mut bytes);
        }
        bytes
    }

    #[test]
    fn a_truncation_frees_whole_pages_and_a_drop_frees_all() {
        let pool = pool();
        let mut plain = cache(&pool, 2, 20, RowFormat::F16);
        fill(&mut plain, 0, 11);
        fill(&mut plain, 1, 1);
        assert_eq!((plain.rows(), plain.pages()), (12, 4));
        plain.truncate(0, 0, 8);
        assert_eq!((plain.rows(), plain.pages()), (9, 3));
        plain.truncate(0, 0, 5);
        plain.append(0, 0, &[50.0; 8], &[-50.0; 8]);
        let mut bytes = Vec::new();
        plain.copy_rows(0, 0, 4..6, &mut bytes);
        let halves = bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
        let expected = [[4.0; 8], [50.0; 8], [-4.0; 8], [-50.0; 8]].concat();
        assert_eq!(halves.collect::<Vec<_>>(), expected);
        assert_eq!(plain.stored_bytes(), 7 * 2 * 8 * 2);
        drop(plain);
        assert_eq!(pool.pages_reserved(), 0);
    }

    #[test]
    fn packed_rows_have_pages_of_their_own() {
        let pool = pool();
        let mut packed = cache(&pool, 1, 40, RowFormat::Int4);
        fill(&mut packed, 0, 13);
        // Two rows in half precision; 11 in int4, of which a page of 128 bytes holds ten.
        assert_eq!((packed.rows(), packed.pages()), (13, 3));
        assert_eq!(packed.stored_bytes(), 2 * 32 + 11 * 12 + 16);
        let runs: Vec<_> = packed
            .table(0, 0)
            .runs()
            .map(|run| (run.format, run.rows))
            .collect();
        assert_eq!(
            runs,
            [
                (RowFormat::F16, 2),
                (RowFormat::Int4, 10),
                (RowFormat::Int4, 1)
            ]
        );
        packed.append(0, 0, &[1.0; 8], &[1.0; 8]);
        packed.advance();
        assert_eq!((packed.rows(), packed.pages()), (14, 3));
        assert_eq!(packed.stored_bytes(), 2 * 32 + 11 * 12 + 16);
        packed.truncate(0, 0, 2);
        assert_eq!(packed.pages(), 1);
        drop(packed);
        assert_eq!(pool.pages_reserved(), 0);
    }

    #[test]
    fn a_rewind_undoes_what_was_appended_and_gives_its_pages_back() {
        for format in RowFormat::ALL {
            let pool = PagePool::new(4 * RowFormat::F32.entry_bytes(8), 12);
            let mut cache = cache(&pool, 2, 7, format);
            // One head ends in the middle of a page, the other with one.
            fill(&mut cache, 0, 6);
            fill(&mut cache, 1, 4);
            let state = |cache: &RaggedCache| {
                (
                    contents(cache),
                    cache.rows(),
                    cache.pages(),
                    cache.next_position(),
                )
            };
            let before = state(&cache);
            let mark = cache.mark();
            for appended in [1, 5] {
                for i in 0..appended {
                    for head in 0..2 {
                        cache.append(0, head, &[i as f32; 8], &[0.5; 8]);
                    }
                    cache.advance();
                }
                assert_eq!(cache.next_position(), 7 + appended);
                assert_eq!(cache.rows(), 10 + 2 * appended);
                cache.rewind(&mark);
                assert_eq!(state(&cache), before, "after {appended} rows of {format}");
            }
            drop(cache);
            assert_eq!(pool.pages_reserved(), 0);
        }
    }

    #[test]
    fn rows_that_are_copied_out_and_appended_again_are_the_same() {
        for format in RowFormat::ALL {
            let (here, there) = (pool(), pool());
            let mut source = cache(&here, 1, 30, format);
            fill(&mut source, 0, 11);
            let mut target = cache(&there, 1, 30, format);
            let mut means = Vec::new();
            source.copy_means(0, &mut means);
            target.set_mean(0, 0, &means);
            for rows in [0..2, 2..3, 3..4, 4..11] {
                let mut bytes = Vec::new();
                source.copy_rows(0, 0, rows, &mut bytes);
                let (keys, values) = bytes.split_at(bytes.len() / 2);
                target.append_rows(0, 0, keys, values);
            }
            assert_eq!(target.rows(), 11);
            assert_eq!(contents(&source), contents(&target), "{format}");
        }
    }
}
