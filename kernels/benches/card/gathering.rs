//! The rows that a layer keeps into pages: its window, and as many others of each head as the budget leaves.

use lava_kernels::cuda::{DeviceError, Gather, Heads, Launch, Work};
use lava_kv::RowFormat;

use super::caches::CacheSizes;
use super::memory::Memory;
use super::random::Random;
use super::stock::COMPUTE;

#[derive(Clone, Copy)]
pub(crate) struct Gathering {
    pub(crate) heads: Heads,
    pub(crate) format: RowFormat,
    /// N.
    pub(crate) tokens: usize,
    /// W.
    pub(crate) window: usize,
    /// b: rows of each head.
    pub(crate) budget: usize,
}

impl Gathering {
    pub(crate) fn work(&self) -> Work {
        let kept = self.heads.kv_heads * self.budget;
        self.heads.gather(kept, self.format)
    }

    /// Of the keys and values that are chosen from, which are more than what is moved.
    pub(crate) fn full_bytes(&self) -> usize {
        2 * size_of::<u16>() * self.row() * self.tokens
    }

    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let Heads {
            kv_heads, head_dim, ..
        } = self.heads;
        let others = self.budget - self.window;
        let sizes = CacheSizes {
            heads: self.heads,
            format: self.format,
            batch: 1,
            wide: self.window,
            appended: 0,
            others,
        };
        let caches = sizes.make(memory)?;
        let (mut positions, mut first_positions) = (Vec::new(), Vec::new());
        let evicted_from = self.tokens - self.window;
        for head in 0..kv_heads {
            first_positions.push(positions.len() as u32);
            positions.extend(evicted_from as u32..self.tokens as u32);
            // Best first is no order of positions.
            let order = Random(head as u64).shuffled(evicted_from);
            positions.extend(&order[..others]);
        }
        let gather = Gather {
            format: self.format,
            compute: COMPUTE,
            head_dim,
            kv_heads,
            keys: memory.activations(self.tokens * self.row())?,
            values: memory.activations(self.tokens * self.row())?,
            positions: memory.of(&positions)?,
            first_positions: memory.of(&first_positions)?,
            tables: caches.tables,
            pages: caches.pages,
            mean_keys: caches.mean_keys,
            pool: caches.pool,
            rows_max: self.budget,
        };
        Ok(vec![gather.launch()])
    }

    /// Numbers of a key of every KV head.
    fn row(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }
}
