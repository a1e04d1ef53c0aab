//! Caches of a batch, for one layer: all heads of all sequences have as many rows.

use lava_kernels::cuda::{Address, DeviceError, Heads, PoolPlace, SequencePlace, TablePlace};
use lava_kv::{RowFormat, rows_of_page};

use super::memory::Memory;
use super::random::Random;

/// Rows of a page in half precision, as the engine has them.
const PAGE_ROWS: usize = 16;

/// Sizes of a batch of caches.
#[derive(Clone, Copy)]
pub(crate) struct CacheSizes {
    pub(crate) heads: Heads,
    pub(crate) format: RowFormat,
    /// B.
    pub(crate) batch: usize,
    /// Wide rows of a head.
    pub(crate) wide: usize,
    /// Those of its wide rows that steps appended.
    pub(crate) appended: usize,
    /// Its other rows, which are packed.
    pub(crate) others: usize,
}

/// Where they are on the device.
pub(crate) struct Caches {
    pub(crate) pool: PoolPlace,
    /// [`TablePlace`] `[Hkv]`, the same for every sequence.
    pub(crate) tables: Address,
    /// Page numbers, sequence by sequence.
    pub(crate) pages: Address,
    /// `[Hkv, D]` in half precision, the same for every sequence.
    pub(crate) mean_keys: Address,
    /// [`SequencePlace`] `[B]`.
    pub(crate) sequences: Address,
}

impl CacheSizes {
    /// Caches full of random rows; pages lie in no order.
    pub(crate) fn make(&self, memory: &mut Memory<'_>) -> Result<Caches, DeviceError> {
        let Heads {
            kv_heads, head_dim, ..
        } = self.heads;
        let page_bytes = PAGE_ROWS * self.format.wide().entry_bytes(head_dim);
        let packed_page_rows = rows_of_page(page_bytes, self.format, head_dim);
        let wide_pages = self.wide.div_ceil(PAGE_ROWS);
        let of_head = wide_pages + self.others.div_ceil(packed_page_rows);
        let of_sequence = kv_heads * of_head;
        let page_count = self.batch * of_sequence;

        let table = |head: usize| TablePlace {
            wide_page: (head * of_head) as u32,
            packed_page: (head * of_head + wide_pages) as u32,
            wide_rows: (self.wide - self.appended) as u32,
            packed_rows: self.others as u32,
        };
        let tables: Vec<TablePlace> = (0..kv_heads).map(table).collect();
        let tables = memory.of(&tables)?;
        let pages = memory.of(&Random(3).shuffled(page_count))?;
        let mean_keys = memory.halves(size_of::<u16>() * kv_heads * head_dim)?;
        let sequence = |index: usize| SequencePlace {
            tables,
            pages: pages + (size_of::<u32>() * index * of_sequence) as u64,
            mean_keys,
            appended: self.appended as u32,
            unused: 0,
        };
        let sequences: Vec<SequencePlace> = (0..self.batch).map(sequence).collect();
        Ok(Caches {
            pool: PoolPlace {
                pages: memory.halves(page_count * page_bytes)?,
                page_bytes: page_bytes as u64,
                wide_page_rows: PAGE_ROWS as u32,
                packed_page_rows: packed_page_rows as u32,
            },
            tables,
            pages,
            mean_keys,
            sequences: memory.of(&sequences)?,
        })
    }
}
