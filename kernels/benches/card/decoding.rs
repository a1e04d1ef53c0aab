//! Attention of a decode step.

use lava_kernels::cuda::{DecodeStep, DeviceError, Launch, Work, pieces};

use super::caches::CacheSizes;
use super::memory::Memory;
use super::stock::COMPUTE;

#[derive(Clone, Copy)]
pub(crate) struct Decoding {
    pub(crate) sizes: CacheSizes,
}

impl Decoding {
    pub(crate) fn work(&self) -> Work {
        let sizes = &self.sizes;
        sizes
            .heads
            .decode(sizes.batch, sizes.wide, sizes.others, sizes.format)
    }

    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let sizes = &self.sizes;
        let caches = sizes.make(memory)?;
        let numbers = sizes.batch * sizes.heads.kv_heads * sizes.heads.group * sizes.heads.head_dim;
        let mut step = DecodeStep {
            format: sizes.format,
            compute: COMPUTE,
            head_dim: sizes.heads.head_dim,
            kv_heads: sizes.heads.kv_heads,
            group: sizes.heads.group,
            batch: sizes.batch,
            layer: 0,
            pool: caches.pool,
            sequences: caches.sequences,
            queries: memory.activations(numbers)?,
            out: memory.room(size_of::<u16>() * numbers)?,
            partials: 0,
            // As the engine rounds it.
            pieces: pieces(sizes.wide, sizes.others).next_power_of_two(),
        };
        step.partials = memory.room(step.partial_bytes())?;
        Ok(step.launches().to_vec())
    }
}
