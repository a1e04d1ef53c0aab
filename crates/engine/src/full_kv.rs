//! The uncompressed K and V of the layer that is being computed, and a count of how many exist.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Result, Tensor};

/// How many layers' full K and V exist at once, over one prefill.
#[derive(Debug, Default)]
pub(crate) struct FullKvCount {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl FullKvCount {
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// K and V of all N tokens of one layer, `[N, Hkv, D]` each, f32. The only place that holds them.
pub(crate) struct FullKv<'a> {
    key: Tensor,
    value: Tensor,
    count: &'a FullKvCount,
}

impl<'a> FullKv<'a> {
    pub(crate) fn new(shape: (usize, usize, usize), count: &'a FullKvCount) -> Result<Self> {
        let key = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let value = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let live = count.live.fetch_add(1, Ordering::Relaxed) + 1;
        count.peak.fetch_max(live, Ordering::Relaxed);
        Ok(Self { key, value, count })
    }

    /// Writes the rows of tokens from `start`.
    pub(crate) fn write(&self, start: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        self.key.slice_set(key, 0, start)?;
        self.value.slice_set(value, 0, start)
    }

    /// The first `tokens` keys and values.
    pub(crate) fn first(&self, tokens: usize) -> Result<(Tensor, Tensor)> {
        Ok((
            self.key.narrow(0, 0, tokens)?,
            self.value.narrow(0, 0, tokens)?,
        ))
    }

    pub(crate) fn key(&self) -> &Tensor {
        &self.key
    }

    pub(crate) fn value(&self) -> &Tensor {
        &self.value
    }
}

impl Drop for FullKv<'_> {
    fn drop(&mut self) {
        self.count.live.fetch_sub(1, Ordering::Relaxed);
    }
}
