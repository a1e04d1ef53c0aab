//! The same models as candle-transformers writes them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use serde_json::Value;

/// Logits after feeding tokens at a position.
type Forward = Box<dyn FnMut(&[u32], usize) -> Vec<f32>>;

/// From a Hugging Face folder.
pub(crate) fn from_folder(folder: &Path) -> Forward {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut tensors = HashMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            tensors.extend(candle_core::safetensors::load(path, &Device::Cpu).unwrap());
        }
    }
    build(serde_json::from_str(&text).unwrap(), tensors)
}

/// From a GGUF file, through candle's own reader, all weights as f32.
pub(crate) fn from_gguf(path: &Path) -> Forward {
    let mut file = std::fs::File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let family = content.metadata["general.architecture"]
        .to_string()
        .unwrap()
        .clone();
    let number = |key: &str| content.metadata[&format!("{family}.{key}")].clone();
    let count = |key: &str| number(key).to_u32().unwrap() as usize;
    let (heads, hidden) = (count("attention.head_count"), count("embedding_length"));
    let head_dim = hidden / heads;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
        let mut tensor = tensor.dequantize(&Device::Cpu).unwrap();
        let rotary = name.contains("attn_q.") || name.contains("attn_k.");
        if rotary && family == "llama" {
            let (rows, cols) = tensor.dims2().unwrap();
            let heads = rows / head_dim;
            let pairs = tensor.reshape((heads, head_dim / 2, 2, cols)).unwrap();
            tensor = pairs.transpose(1, 2).unwrap().contiguous().unwrap();
            tensor = tensor.reshape((rows, cols)).unwrap();
        }
        tensors.insert(hugging_face_name(name), tensor);
    }
    let config = serde_json::json!({
        "model_type": family, "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length"),
        "vocab_size": tensors["model.embed_tokens.weight"].dims()[0],
        "num_hidden_layers": count("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": count("attention.head_count_kv"),
        "max_position_embeddings": count("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon").to_f32().unwrap(),
        "rope_theta": number("rope.freq_base").to_f32().unwrap(),
        "tie_word_embeddings": !tensors.contains_key("lm_head.weight"),
        "use_sliding_window": false,
        "hidden_act": "silu",
    });
    build(config, tensors)
}

fn build(config: Value, tensors: HashMap<String, Tensor>) -> Forward {
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    match config["model_type"].as_str().unwrap() {
        "llama" => {
            let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
            let config = config.into_config(false);
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            let model = llama::Llama::load(weights, &config).unwrap();
            Box::new(move |ids, at| values(model.forward(&input(ids), at, &mut cache).unwrap()))
        }
        "mistral" => {
            let config: mistral::Config = serde_json::from_value(config).unwrap();
            let mut model = mistral::Model::new(&config, weights).unwrap();
            Box::new(move |ids, at| values(model.forward(&input(ids), at).unwrap()))
        }
        "qwen2" => {
            let config: qwen2::Config = serde_json::from_value(with_window(config)).unwrap();
            let mut model = qwen2::ModelForCausalLM::new(&config, weights).unwrap();
            Box::new(move |ids, at| values(model.forward(&input(ids), at).unwrap()))
        }
        "qwen3" => {
            let config: qwen3::Config = serde_json::from_value(with_window(config)).unwrap();
            let mut model = qwen3::ModelForCausalLM::new(&config, weights).unwrap();
            Box::new(move |ids, at| values(model.forward(&input(ids), at).unwrap()))
        }
        other => panic!("no such model here: {other}"),
    }
}

/// candle's configurations insist on keys that files may leave out or set to null.
fn with_window(mut config: Value) -> Value {
    let context = config["max_position_embeddings"].clone();
    for (key, value) in [
        ("sliding_window", context),
        ("max_window_layers", 0.into()),
        ("attention_bias", false.into()),
        ("use_sliding_window", false.into()),
        ("hidden_act", "silu".into()),
    ] {
        if config[key].is_null() {
            config[key] = value;
        }
    }
    config
}

fn input(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu)
        .unwrap()
        .unsqueeze(0)
        .unwrap()
}

fn values(logits: Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn hugging_face_name(gguf: &str) -> String {
    let parts: Vec<&str> = gguf.split('.').collect();
    match parts[..] {
        ["token_embd", kind] => format!("model.embed_tokens.{kind}"),
        ["output_norm", kind] => format!("model.norm.{kind}"),
        ["output", kind] => format!("lm_head.{kind}"),
        ["blk", layer, part, kind] => {
            let part = match part {
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                other => panic!("unexpected tensor {other}"),
            };
            format!("model.layers.{layer}.{part}.{kind}")
        }
        _ => panic!("unexpected tensor {gguf}"),
    }
}
