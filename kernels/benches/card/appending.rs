//! The new rows of a step.

use lava_kernels::cuda::{Append, DeviceError, Launch, Work};

use super::caches::CacheSizes;
use super::memory::Memory;
use super::stock::COMPUTE;

#[derive(Clone, Copy)]
pub(crate) struct Appending {
    pub(crate) sizes: CacheSizes,
}

impl Appending {
    pub(crate) fn work(&self) -> Work {
        self.sizes.heads.append(self.sizes.batch)
    }

    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let sizes = &self.sizes;
        let caches = sizes.make(memory)?;
        let numbers = sizes.batch * sizes.heads.kv_heads * sizes.heads.head_dim;
        let append = Append {
            format: sizes.format,
            compute: COMPUTE,
            head_dim: sizes.heads.head_dim,
            kv_heads: sizes.heads.kv_heads,
            batch: sizes.batch,
            layer: 0,
            pool: caches.pool,
            sequences: caches.sequences,
            keys: memory.activations(numbers)?,
            values: memory.activations(numbers)?,
        };
        Ok(vec![append.launch()])
    }
}
