//! A model's configuration from the `config.json` of a Hugging Face folder.

use std::path::Path;

use serde::Deserialize;

use crate::config::{ARCHITECTURES, ModelConfig, RopeScaling};
use crate::error::LoadError;

/// Reads and checks `config.json`.
///
/// # Errors
/// The file is missing, is not JSON, lacks a value, or describes a model that is not supported.
pub(crate) fn read(file: &Path) -> Result<ModelConfig, LoadError> {
    let text = std::fs::read_to_string(file).map_err(|source| LoadError::Io {
        file: file.to_owned(),
        source,
    })?;
    let raw: Raw = serde_json::from_str(&text).map_err(|source| LoadError::Json {
        file: file.to_owned(),
        source,
    })?;
    raw.into_config(file)?.check(file)
}

/// The keys that are read, as the files spell them.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// Newer files keep theta and scaling together here.
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    attention_factor: Option<f32>,
}

impl Raw {
    fn into_config(self, file: &Path) -> Result<ModelConfig, LoadError> {
        let family = self.model_type.as_str();
        if !["llama", "mistral", "qwen2", "qwen3"].contains(&family) {
            return Err(LoadError::UnknownArchitecture {
                file: file.to_owned(),
                found: self.model_type,
                known: ARCHITECTURES,
            });
        }
        let unsupported = |key, found: &dyn ToString, expected: &str| LoadError::Config {
            file: file.to_owned(),
            key,
            found: found.to_string(),
            expected: expected.into(),
        };
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(unsupported("hidden_act", &act, "silu"));
        }
        if self.mlp_bias == Some(true) {
            return Err(unsupported("mlp_bias", &true, "false"));
        }
        if self.attention_bias == Some(true) {
            // Llama and Qwen3 with it also bias the output projection, which no known model uses.
            return Err(unsupported("attention_bias", &true, "false"));
        }
        if self.num_attention_heads == 0 {
            return Err(unsupported("num_attention_heads", &0, "at least 1"));
        }
        // Mistral is windowed whenever the key is there; Qwen only if it is switched on.
        let windowed = match family {
            "mistral" => true,
            "qwen2" | "qwen3" => self.use_sliding_window == Some(true),
            _ => false,
        };
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = self.rope_theta.or(rope.and_then(|rope| rope.rope_theta));
        Ok(ModelConfig {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            q_heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self
                .head_dim
                .unwrap_or(self.hidden_size / self.num_attention_heads),
            vocabulary: self.vocab_size,
            context: self.max_position_embeddings,
            rms_epsilon: self.rms_norm_eps,
            rope_theta: theta.unwrap_or(10_000.0),
            rope_scaling: match rope {
                Some(rope) => rope.scaling(file, self.max_position_embeddings)?,
                None => RopeScaling::None,
            },
            qkv_bias: family == "qwen2",
            qk_norm: family == "qwen3",
            tied_embeddings: self.tie_word_embeddings.unwrap_or(false),
            sliding_window: self.sliding_window.filter(|_| windowed),
        })
    }
}

impl Rope {
    fn scaling(&self, file: &Path, context: usize) -> Result<RopeScaling, LoadError> {
        let config_error = |key, found: &str, expected: &str| LoadError::Config {
            file: file.to_owned(),
            key,
            found: found.into(),
            expected: expected.into(),
        };
        let positive = |key, value: Option<f32>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(config_error(key, &value.to_string(), "a positive number")),
            None => Err(config_error(key, "missing", "a positive number")),
        };
        let original_context = self.original_max_position_embeddings.unwrap_or(context);
        if original_context == 0 {
            return Err(config_error(
                "original_max_position_embeddings",
                "0",
                "at least 1",
            ));
        }
        match self.rope_type.as_deref().unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: positive("rope_scaling.factor", self.factor)?,
            }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: positive("rope_scaling.factor", self.factor)?,
                low_frequency_factor: positive(
                    "rope_scaling.low_freq_factor",
                    self.low_freq_factor,
                )?,
                high_frequency_factor: positive(
                    "rope_scaling.high_freq_factor",
                    self.high_freq_factor,
                )?,
                original_context,
            }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor: positive("rope_scaling.factor", self.factor)?,
                original_context,
                beta_fast: self.beta_fast.unwrap_or(32.0),
                beta_slow: self.beta_slow.unwrap_or(1.0),
                attention_factor: self.attention_factor,
            }),
            other => Err(config_error(
                "rope_scaling.rope_type",
                other,
                "default, linear, llama3 or yarn",
            )),
        }
    }
}
