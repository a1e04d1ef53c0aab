//! Causal attention of a whole prompt.

use lava_kernels::cuda::{DeviceError, Heads, Launch, PrefillAttention, Work};

use super::memory::Memory;
use super::stock::COMPUTE;

#[derive(Clone, Copy)]
pub(crate) struct Prefill {
    pub(crate) heads: Heads,
    /// N.
    pub(crate) tokens: usize,
}

impl Prefill {
    pub(crate) fn work(&self) -> Work {
        self.heads.prefill(self.tokens)
    }

    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let attention = last_queries(&self.heads, self.tokens, self.tokens, memory)?;
        Ok(vec![attention.launch()])
    }
}

/// Attention of the last `rows` tokens of a prompt over all keys.
pub(crate) fn last_queries(
    heads: &Heads,
    tokens: usize,
    rows: usize,
    memory: &mut Memory<'_>,
) -> Result<PrefillAttention, DeviceError> {
    let &Heads {
        kv_heads,
        group,
        head_dim,
    } = heads;
    let q_heads = kv_heads * group;
    Ok(PrefillAttention {
        compute: COMPUTE,
        head_dim,
        kv_heads,
        group,
        rows,
        first_position: tokens - rows,
        queries: memory.activations(rows * q_heads * head_dim)?,
        keys: memory.activations(tokens * kv_heads * head_dim)?,
        values: memory.activations(tokens * kv_heads * head_dim)?,
        out: memory.room(size_of::<u16>() * rows * q_heads * head_dim)?,
        log_sums: memory.room(size_of::<f32>() * rows * q_heads)?,
    })
}
