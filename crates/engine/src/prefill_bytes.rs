//! What memory a prefill takes beside the weights.

use crate::model::Model;
use crate::prefill::BLOCK_TOKENS;

/// Bytes that a prefill holds at once, f32 throughout; the rows that are kept come on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillBytes {
    /// The residual stream of all tokens.
    pub hidden: usize,
    /// One layer's keys and values of all tokens.
    pub full_kv: usize,
    /// The activations of one block that exist at one time: those of the MLP, or those of attention if they
    /// are more.
    pub block: usize,
}

impl PrefillBytes {
    /// For a prompt of so many tokens.
    pub fn of(model: &Model, tokens: usize) -> Self {
        let config = model.config();
        let block = tokens.min(BLOCK_TOKENS);
        let (queries, kv) = (
            config.q_heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        // The residual stream, gate, up, their product.
        let mlp = 4 * (config.hidden + 3 * config.intermediate);
        // The normalised input; queries before and after RoPE; keys likewise; values.
        let attention = 4 * (config.hidden + 2 * queries + 3 * kv);
        Self {
            hidden: tokens * config.hidden * 4,
            full_kv: 2 * tokens * kv * 4,
            block: block * mlp.max(attention),
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.hidden + self.full_kv + self.block
    }
}
