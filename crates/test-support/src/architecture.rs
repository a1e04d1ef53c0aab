//! The supported architectures and what each is called in the two formats.

/// A decoder family. SmolLM2 is [`Architecture::Llama`] by its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// No biases, no norms on queries and keys.
    Llama,
    /// Llama with an optional sliding window; a GGUF file calls it `llama`.
    Mistral,
    /// Biases on the query, key and value projections.
    Qwen2,
    /// An RMS norm over each query and key head.
    Qwen3,
}

impl Architecture {
    /// All of them, for tests that loop.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    pub(crate) fn hf_class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    pub(crate) fn hf_model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    pub(crate) fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama | Self::Mistral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Whether a GGUF file holds query and key rows in the order of interleaved RoPE.
    pub(crate) fn gguf_permutes_rows(self) -> bool {
        self.gguf_name() == "llama"
    }

    pub(crate) fn has_qkv_bias(self) -> bool {
        self == Self::Qwen2
    }

    pub(crate) fn has_head_norms(self) -> bool {
        self == Self::Qwen3
    }

    pub(crate) fn may_slide(self) -> bool {
        self != Self::Llama
    }

    pub(crate) fn rms_norm_eps(self) -> f64 {
        match self {
            Self::Llama | Self::Mistral => 1e-5,
            Self::Qwen2 | Self::Qwen3 => 1e-6,
        }
    }
}
