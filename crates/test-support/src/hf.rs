//! Writes a toy model as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

use crate::architecture::Architecture;
use crate::encode::{bf16_bytes, f16_bytes, f32_bytes};
use crate::model::{ToyModel, ToyTensor};
use crate::rope::RopeScaling;
use crate::tokenizer::{BOS_ID, EOS_ID, ToyTokenizer};

/// The dtype of every tensor in the folder. The numbers are the same in all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfDtype {
    /// 4 bytes.
    F32,
    /// 2 bytes, 11 bits of mantissa.
    F16,
    /// 2 bytes, 8 bits of mantissa.
    Bf16,
}

impl ToyModel {
    /// Writes config.json, the weights in `shards` safetensors files (with an index if more than one), and, where
    /// the vocabulary has room, tokenizer.json and tokenizer_config.json. `dir` is created if need be.
    ///
    /// # Errors
    /// The file that could not be written.
    ///
    /// # Panics
    /// If `shards` is 0 or more than there are tensors, or the shape is not one of a real model.
    pub fn write_hf(&self, dir: &Path, dtype: HfDtype, shards: usize) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        write_json(&dir.join("config.json"), &self.hf_config(dtype))?;
        self.write_safetensors(dir, dtype, shards)?;
        if let Some(tokenizer) = ToyTokenizer::of_vocab(self.vocab) {
            write_json(&dir.join("tokenizer.json"), &tokenizer.hf_tokenizer())?;
            write_json(
                &dir.join("tokenizer_config.json"),
                &tokenizer.hf_config(self.context),
            )?;
        }
        Ok(())
    }

    fn write_safetensors(&self, dir: &Path, dtype: HfDtype, shards: usize) -> io::Result<()> {
        let tensors = self.tensors();
        assert!(
            (1..=tensors.len()).contains(&shards),
            "{shards} shards of {} tensors",
            tensors.len()
        );
        if shards == 1 {
            return write_shard(&dir.join("model.safetensors"), &tensors, dtype);
        }
        let mut weight_map = BTreeMap::new();
        let mut values = 0;
        for shard in 0..shards {
            let (start, end) = (
                shard * tensors.len() / shards,
                (shard + 1) * tensors.len() / shards,
            );
            let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
            write_shard(&dir.join(&file), &tensors[start..end], dtype)?;
            for tensor in &tensors[start..end] {
                weight_map.insert(tensor.name.clone(), file.clone());
                values += tensor.values.len();
            }
        }
        let total_size = values * dtype.bytes();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        write_json(&dir.join("model.safetensors.index.json"), &index)
    }

    fn hf_config(&self, dtype: HfDtype) -> Value {
        let mut config = json!({
            "architectures": [self.architecture.hf_class()],
            "model_type": self.architecture.hf_model_type(),
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.context,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.architecture.rms_norm_eps(),
            "rope_scaling": self.rope_scaling.map(RopeScaling::hf_value),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": dtype.torch_name(),
            "vocab_size": self.vocab,
        });
        if self.states_head_dim() {
            config["head_dim"] = json!(self.head_dim);
        }
        match self.architecture {
            Architecture::Llama => config["attention_bias"] = json!(false),
            Architecture::Mistral => config["sliding_window"] = json!(self.sliding_window),
            // No word of its biases: a loader has to know Qwen2.
            Architecture::Qwen2 => self.add_qwen_window(&mut config),
            Architecture::Qwen3 => {
                config["attention_bias"] = json!(false);
                self.add_qwen_window(&mut config);
            }
        }
        config
    }

    /// Qwen files switch the window by a flag of its own. Qwen2 states a width even when it is off, Qwen3 none.
    fn add_qwen_window(&self, config: &mut Value) {
        let unused = (self.architecture == Architecture::Qwen2).then_some(self.context);
        config["use_sliding_window"] = json!(self.sliding_window.is_some());
        config["sliding_window"] = json!(self.sliding_window.or(unused));
        // The layers below this index attend to everything, even when the flag is set.
        let full_layers = if self.sliding_window.is_some() {
            0
        } else {
            self.layers
        };
        config["max_window_layers"] = json!(full_layers);
    }
}

impl HfDtype {
    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn encode(self, values: &[f32]) -> (Dtype, Vec<u8>) {
        match self {
            Self::F32 => (Dtype::F32, f32_bytes(values)),
            Self::F16 => (Dtype::F16, f16_bytes(values)),
            Self::Bf16 => (Dtype::BF16, bf16_bytes(values)),
        }
    }
}

fn write_shard(path: &Path, tensors: &[ToyTensor], dtype: HfDtype) -> io::Result<()> {
    let encoded: Vec<_> = tensors
        .iter()
        .map(|tensor| dtype.encode(&tensor.values))
        .collect();
    let views = tensors
        .iter()
        .zip(&encoded)
        .map(|(tensor, (dtype, bytes))| {
            let view = TensorView::new(*dtype, tensor.shape.clone(), bytes);
            (tensor.name.as_str(), view.expect("values fill the shape"))
        });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    serialize_to_file(views, Some(metadata), path).map_err(io::Error::other)
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, format!("{value:#}\n"))
}
