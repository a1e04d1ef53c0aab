//! The vocabulary of a GGUF file, as the JSON that the tokenizer library reads.

use lava_gguf::{Gguf, optional};
use serde_json::{Map, Value, json};

use crate::error::TextError;

/// Token types of the GGUF specification that matter here.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const MODELS: &str = "gpt2 (byte-level BPE); for a SentencePiece model use its Hugging Face folder";
const PRE_TOKENIZERS: &str = "smollm, qwen2, llama-bpe, llama3, gpt-2, default";

/// The splitting rule of Llama 3's tokenizer, a part of its published tokenizer.json.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// That of Qwen2: the same, but one digit at a time.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A `tokenizer.json` document with the same behaviour.
///
/// # Errors
/// A key is missing or of another type, or the file asks for an unknown tokenizer.
pub(crate) fn tokenizer_json(gguf: &Gguf) -> Result<Value, TextError> {
    let unknown = |key, found: &str, known| TextError::UnknownTokenizer {
        file: gguf.path().to_owned(),
        key,
        found: found.into(),
        known,
    };
    let model = gguf.str("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(unknown("tokenizer.ggml.model", model, MODELS));
    }
    let name = optional(gguf.str("tokenizer.ggml.pre"))?.unwrap_or("default");
    let Some(rule) = pre_tokenizer(name) else {
        return Err(unknown("tokenizer.ggml.pre", name, PRE_TOKENIZERS));
    };
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let types = optional(gguf.i32s("tokenizer.ggml.token_type"))?.unwrap_or(&[]);
    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        vocabulary.insert(token.clone(), json!(id));
        let kind = types.get(id).copied().unwrap_or(1);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "special": kind == CONTROL, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    let merges: Vec<Value> = gguf
        .strings("tokenizer.ggml.merges")?
        .iter()
        .map(|merge| json!(merge))
        .collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": if name == "qwen2" { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": rule,
        "decoder": byte_level(false),
        "post_processor": Value::Null,
        "model": {
            "type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": Value::Null,
            "unk_token": Value::Null, "continuing_subword_prefix": Value::Null,
            "end_of_word_suffix": Value::Null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": matches!(name, "llama-bpe" | "llama3"),
        },
    }))
}

fn pre_tokenizer(name: &str) -> Option<Value> {
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]})
    };
    Some(match name {
        "smollm" => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            byte_level(true),
        ]}),
        "qwen2" => split(QWEN2_SPLIT),
        "llama-bpe" | "llama3" => split(LLAMA3_SPLIT),
        "gpt-2" | "default" => byte_level(true),
        _ => return None,
    })
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}
