//! A model's configuration from the metadata of a GGUF file.

use lava_gguf::{Gguf, optional};

use crate::config::{ARCHITECTURES, ModelConfig, RopeScaling};
use crate::error::LoadError;
use crate::weights::gguf::f32_values;

/// Reads and checks the metadata. Keys are those of the GGUF specification, under the prefix that
/// `general.architecture` names.
///
/// # Errors
/// A key is missing or has another type, or the file describes a model that is not supported.
pub(crate) fn read(gguf: &Gguf) -> Result<ModelConfig, LoadError> {
    let family = gguf.str("general.architecture")?;
    // Mistral files say "llama", and so do those of SmolLM2.
    if !["llama", "qwen2", "qwen3"].contains(&family) {
        return Err(LoadError::UnknownArchitecture {
            file: gguf.path().to_owned(),
            found: family.into(),
            known: ARCHITECTURES,
        });
    }
    let key = |name: &str| format!("{family}.{name}");
    let hidden = gguf.usize(&key("embedding_length"))?;
    let q_heads = gguf.usize(&key("attention.head_count"))?;
    let context = gguf.usize(&key("context_length"))?;
    let embedding = gguf.tensor("token_embd.weight")?;
    let config = ModelConfig {
        layers: gguf.usize(&key("block_count"))?,
        hidden,
        intermediate: gguf.usize(&key("feed_forward_length"))?,
        q_heads,
        kv_heads: optional(gguf.usize(&key("attention.head_count_kv")))?.unwrap_or(q_heads),
        head_dim: match optional(gguf.usize(&key("attention.key_length")))? {
            Some(head_dim) => head_dim,
            None => hidden / q_heads.max(1),
        },
        // Not every file has a vocab_size key; the embedding has a row per token.
        vocabulary: embedding.dims.first().copied().unwrap_or(0),
        context,
        rms_epsilon: gguf.f32(&key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: optional(gguf.f32(&key("rope.freq_base")))?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(gguf, family, context)?,
        qkv_bias: family == "qwen2",
        qk_norm: family == "qwen3",
        tied_embeddings: gguf.tensor("output.weight").is_err(),
        sliding_window: optional(gguf.usize(&key("attention.sliding_window")))?
            .filter(|&window| window > 0),
    };
    config.check(gguf.path())
}

fn rope_scaling(gguf: &Gguf, family: &str, context: usize) -> Result<RopeScaling, LoadError> {
    if gguf.tensor("rope_freqs.weight").is_ok() {
        return Ok(RopeScaling::Divisors(f32_values(
            gguf,
            "rope_freqs.weight",
        )?));
    }
    let key = |name: &str| format!("{family}.rope.scaling.{name}");
    let kind = optional(gguf.str(&key("type")))?.unwrap_or("none");
    let bad = |key, found: &dyn ToString, expected: &str| LoadError::Config {
        file: gguf.path().to_owned(),
        key,
        found: found.to_string(),
        expected: expected.into(),
    };
    let factor = || match gguf.f32(&key("factor"))? {
        factor if factor.is_finite() && factor > 0.0 => Ok(factor),
        factor => Err(bad("rope.scaling.factor", &factor, "a positive number")),
    };
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context: match optional(gguf.usize(&key("original_context_length")))? {
                Some(0) => return Err(bad("original_context_length", &0, "at least 1")),
                Some(tokens) => tokens,
                None => context,
            },
            beta_fast: optional(gguf.f32(&key("yarn_beta_fast")))?.unwrap_or(32.0),
            beta_slow: optional(gguf.f32(&key("yarn_beta_slow")))?.unwrap_or(1.0),
            // llama.cpp multiplies the usual factor by this one.
            attention_factor: optional(gguf.f32(&key("attn_factor")))?
                .map(|scale| Ok::<_, LoadError>(scale * (0.1 * factor()?.ln() + 1.0)))
                .transpose()?,
        }),
        other => Err(bad("rope.scaling.type", &other, "none, linear or yarn")),
    }
}
