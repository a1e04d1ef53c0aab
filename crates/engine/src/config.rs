//! The shape of a model, and where models of one family differ.

pub(crate) mod gguf;
pub(crate) mod hf;

use std::path::Path;

use lava::{EntryBytes, Method, Shape};
use lava_kv::{CacheShape, RowFormat};

use crate::error::LoadError;

/// Families that the one decoder runs.
pub const ARCHITECTURES: &str = "llama (with SmolLM2), mistral, qwen2, qwen3";

/// Everything the decoder needs to know of a model besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// L.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Hq.
    pub q_heads: usize,
    /// Hkv; divides Hq.
    pub kv_heads: usize,
    /// D; even.
    pub head_dim: usize,
    /// V.
    pub vocabulary: usize,
    /// Longest sequence in tokens.
    pub context: usize,
    /// Epsilon of every RMS norm.
    pub rms_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How they are stretched.
    pub rope_scaling: RopeScaling,
    /// Bias on the Q, K and V projections (Qwen2).
    pub qkv_bias: bool,
    /// RMS norm over D on each query and key head (Qwen3).
    pub qk_norm: bool,
    /// The output projection is the embedding.
    pub tied_embeddings: bool,
    /// Window in tokens, if the model attends over one.
    pub sliding_window: Option<usize>,
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear {
        /// Positions are divided by it.
        factor: f32,
    },
    /// By wavelength, as in Llama 3.1.
    Llama3 {
        /// Stretch of the longest wavelengths.
        factor: f32,
        /// Wavelengths above `original_context / low` are stretched whole.
        low_frequency_factor: f32,
        /// Wavelengths below `original_context / high` are left alone.
        high_frequency_factor: f32,
        /// Trained context in tokens.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch of the longest wavelengths.
        factor: f32,
        /// Trained context in tokens.
        original_context: usize,
        /// Rotations within the context above which a dimension is left alone.
        beta_fast: f32,
        /// Rotations under which it is stretched whole.
        beta_slow: f32,
        /// Scale of queries and keys; `None`: `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
    },
    /// A divisor per frequency, D/2 of them (GGUF files of Llama 3.1 carry them as a tensor).
    Divisors(Vec<f32>),
}

impl ModelConfig {
    /// G = Hq / Hkv.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Most tokens a prompt and its answer may have together.
    pub fn positions_max(&self) -> usize {
        self.context.min(self.sliding_window.unwrap_or(usize::MAX))
    }

    /// Shape of the compact cache of a prompt of `tokens` tokens.
    pub fn cache_shape(
        &self,
        tokens: usize,
        method: &Method,
        budget: usize,
        format: RowFormat,
    ) -> CacheShape {
        let shape = Shape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            tokens,
        };
        CacheShape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            tokens,
            window_rows: shape.window_rows(method, budget),
            wide_rows: match format.is_packed() {
                true => shape.pinned_rows(method, budget),
                false => tokens,
            },
            format,
        }
    }

    /// Bytes of the entries of a compact cache, for budgets in bytes.
    pub fn entry_bytes(&self, format: RowFormat) -> EntryBytes {
        EntryBytes {
            pinned: format.wide().entry_bytes(self.head_dim),
            other: format.entry_bytes(self.head_dim),
            table: format.mean_bytes(self.head_dim),
        }
    }

    /// Bytes of a page of compact caches: 16 entries in half precision, few enough that the unused ends of
    /// L * Hkv pages stay small.
    pub fn page_bytes(&self) -> usize {
        16 * RowFormat::F16.entry_bytes(self.head_dim)
    }

    /// Refuses what the decoder cannot compute with; `file` is named in the error.
    pub(crate) fn check(self, file: &Path) -> Result<Self, LoadError> {
        let fail = |key, found: usize, expected: String| LoadError::Config {
            file: file.to_owned(),
            key,
            found: found.to_string(),
            expected,
        };
        // A bound on each size keeps products far from overflow whatever a file claims.
        const SIZE_MAX: usize = 1 << 24;
        for (key, size) in [
            ("number of layers", self.layers),
            ("hidden size", self.hidden),
            ("intermediate size", self.intermediate),
            ("number of query heads", self.q_heads),
            ("number of KV heads", self.kv_heads),
            ("head dim", self.head_dim),
            ("vocabulary size", self.vocabulary),
            ("context length", self.context),
        ] {
            if size == 0 || size > SIZE_MAX {
                return Err(fail(key, size, format!("1 to {SIZE_MAX}")));
            }
        }
        if !self.q_heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a multiple of the {} KV heads", self.kv_heads);
            return Err(fail("number of query heads", self.q_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(fail("head dim", self.head_dim, "an even number".into()));
        }
        if let RopeScaling::Divisors(divisors) = &self.rope_scaling
            && divisors.len() != self.head_dim / 2
        {
            let expected = format!("half the head dim, {}", self.head_dim / 2);
            return Err(fail("number of rope divisors", divisors.len(), expected));
        }
        for (key, value) in [
            ("rms epsilon", self.rms_epsilon),
            ("rope theta", self.rope_theta),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(LoadError::Config {
                    file: file.to_owned(),
                    key,
                    found: value.to_string(),
                    expected: "a positive number".into(),
                });
            }
        }
        Ok(self)
    }
}
