//! Writes a toy model as a GGUF file, under the names and in the row order of llama.cpp's converter.

use std::path::Path;
use std::{fs, io};

use crate::encode::{Q8_0_BLOCK, f16_bytes, f32_bytes, q8_0_bytes};
use crate::gguf_file::{GgufFile, GgufTensor, GgufValue};
use crate::model::{ToyModel, ToyTensor};
use crate::permute::halves_to_pairs;
use crate::rope::RopeScaling;
use crate::tokenizer::{BOS_ID, CHAT_TEMPLATE, EOS_ID, PAD_ID, ToyTokenizer};

/// The encoding of the matrices. Norms, biases and frequency divisors are always F32, as in real files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufKind {
    /// Exact.
    F32,
    /// Exact too: toy weights fit.
    F16,
    /// Blocks of 32 with one scale; loses digits. Needs columns in multiples of 32.
    Q8_0,
}

impl ToyModel {
    /// Writes one file with weights, shape and, where the vocabulary has room, tokenizer and chat template.
    ///
    /// # Errors
    /// The file could not be written.
    ///
    /// # Panics
    /// If the shape is not one of a real model, or its matrices do not fit the kind.
    pub fn write_gguf(&self, path: &Path, kind: GgufKind) -> io::Result<()> {
        let mut tensors: Vec<_> = self
            .tensors()
            .iter()
            .map(|t| self.gguf_tensor(t, kind))
            .collect();
        tensors.extend(self.rope_divisors());
        let mut metadata = self.shape_metadata(kind);
        if let Some(tokenizer) = ToyTokenizer::of_vocab(self.vocab) {
            metadata.extend(tokenizer_metadata(&tokenizer));
        }
        GgufFile { metadata, tensors }.write(&mut fs::File::create(path)?)
    }

    fn gguf_tensor(&self, tensor: &ToyTensor, kind: GgufKind) -> GgufTensor {
        let (rows, columns) = match tensor.shape[..] {
            [rows, columns] => (rows, columns),
            [width] => (width, 1),
            _ => unreachable!("toy tensors are matrices and vectors"),
        };
        let heads = rows / self.head_dim;
        let is_rotated = [
            "q_proj.weight",
            "k_proj.weight",
            "q_proj.bias",
            "k_proj.bias",
        ]
        .iter()
        .any(|end| tensor.name.ends_with(end));
        let values = if is_rotated && self.architecture.gguf_permutes_rows() {
            &halves_to_pairs(&tensor.values, heads, columns)
        } else {
            &tensor.values
        };
        let kind = if tensor.shape.len() == 1 {
            GgufKind::F32
        } else {
            kind
        };
        assert!(
            kind != GgufKind::Q8_0 || columns.is_multiple_of(Q8_0_BLOCK),
            "Q8_0 needs columns in multiples of {Q8_0_BLOCK}; {} has {columns}",
            tensor.name
        );
        GgufTensor {
            name: gguf_name(&tensor.name),
            shape: tensor.shape.clone(),
            type_id: kind.type_id(),
            data: kind.encode(values),
        }
    }

    fn rope_divisors(&self) -> Option<GgufTensor> {
        let divisors = self
            .rope_scaling?
            .frequency_divisors(self.rope_theta, self.head_dim)?;
        Some(GgufTensor {
            name: "rope_freqs.weight".to_owned(),
            shape: vec![divisors.len()],
            type_id: GgufKind::F32.type_id(),
            data: f32_bytes(&divisors),
        })
    }

    fn shape_metadata(&self, kind: GgufKind) -> Vec<(String, GgufValue)> {
        let architecture = self.architecture.gguf_name();
        let count = |x: usize| GgufValue::U32(u32::try_from(x).expect("toy sizes are small"));
        let eps = self.architecture.rms_norm_eps() as f32;
        let mut keys = vec![
            ("block_count", count(self.layers)),
            ("context_length", count(self.context)),
            ("embedding_length", count(self.hidden)),
            ("feed_forward_length", count(self.intermediate)),
            ("attention.head_count", count(self.heads)),
            ("attention.head_count_kv", count(self.kv_heads)),
            ("attention.layer_norm_rms_epsilon", GgufValue::F32(eps)),
            ("rope.freq_base", GgufValue::F32(self.rope_theta as f32)),
        ];
        if self.states_head_dim() {
            keys.push(("attention.key_length", count(self.head_dim)));
            keys.push(("attention.value_length", count(self.head_dim)));
        }
        if architecture == "llama" {
            keys.push(("vocab_size", count(self.vocab)));
            keys.push(("rope.dimension_count", count(self.head_dim)));
        }
        if let Some(RopeScaling::Yarn {
            factor,
            original_context,
        }) = self.rope_scaling
        {
            keys.push(("rope.scaling.type", GgufValue::Text("yarn".to_owned())));
            keys.push(("rope.scaling.factor", GgufValue::F32(factor as f32)));
            keys.push((
                "rope.scaling.original_context_length",
                count(original_context),
            ));
        }
        if let Some(window) = self.sliding_window {
            keys.push(("attention.sliding_window", count(window)));
        }
        let general = [
            (
                "general.architecture".to_owned(),
                GgufValue::Text(architecture.to_owned()),
            ),
            ("general.name".to_owned(), GgufValue::Text("toy".to_owned())),
            (
                "general.file_type".to_owned(),
                GgufValue::U32(kind.file_type()),
            ),
        ];
        let shape = keys
            .into_iter()
            .map(|(key, value)| (format!("{architecture}.{key}"), value));
        general.into_iter().chain(shape).collect()
    }
}

impl GgufKind {
    fn type_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// llama.cpp's number for "mostly this kind".
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => f32_bytes(values),
            Self::F16 => f16_bytes(values),
            Self::Q8_0 => q8_0_bytes(values),
        }
    }
}

fn tokenizer_metadata(tokenizer: &ToyTokenizer) -> Vec<(String, GgufValue)> {
    let (pieces, types) = tokenizer
        .tokens()
        .into_iter()
        .map(|(piece, t)| (piece, t as i32))
        .unzip();
    let keys = [
        ("ggml.model", GgufValue::Text("gpt2".to_owned())),
        ("ggml.pre", GgufValue::Text("smollm".to_owned())),
        ("ggml.tokens", GgufValue::Texts(pieces)),
        ("ggml.token_type", GgufValue::I32s(types)),
        ("ggml.merges", GgufValue::Texts(tokenizer.merge_lines())),
        ("ggml.bos_token_id", GgufValue::U32(BOS_ID)),
        ("ggml.eos_token_id", GgufValue::U32(EOS_ID)),
        ("ggml.padding_token_id", GgufValue::U32(PAD_ID)),
        ("ggml.add_bos_token", GgufValue::Bool(false)),
        ("ggml.add_space_prefix", GgufValue::Bool(false)),
        ("chat_template", GgufValue::Text(CHAT_TEMPLATE.to_owned())),
    ];
    keys.into_iter()
        .map(|(key, value)| (format!("tokenizer.{key}"), value))
        .collect()
}

/// `model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`.
///
/// # Panics
/// On a name that no toy model has.
fn gguf_name(hf_name: &str) -> String {
    let whole = match hf_name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return name.to_owned();
    }
    let (layer, part, suffix) = hf_name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, rest)| {
            rest.rsplit_once('.')
                .map(|(part, suffix)| (layer, part, suffix))
        })
        .unwrap_or_else(|| unreachable!("no toy model has {hf_name}"));
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => unreachable!("no toy model has {hf_name}"),
    };
    format!("blk.{layer}.{part}.{suffix}")
}
