//! The tokenizer of a model, from a Hugging Face folder or a GGUF file.

use std::collections::BTreeSet;
use std::path::Path;

use lava_gguf::{Gguf, optional};
use serde_json::Value;

use crate::error::TextError;
use crate::ggml_vocabulary;
use crate::spelling::Spelling;

/// Markers that end an answer in the chat formats of the supported families.
const END_MARKERS: [&str; 4] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
];

/// Text to ids, and the bytes of each id.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    special: BTreeSet<u32>,
    end_of_text: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and end-of-text ids from the files beside it.
    ///
    /// # Errors
    /// A file is missing or broken.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let file = folder.join("tokenizer.json");
        let document = read_json(&file)?;
        let mut tokenizer = Self::build(&file, &document)?;
        let generation = optional_json(&folder.join("generation_config.json"))?;
        let config = optional_json(&folder.join("tokenizer_config.json"))?;
        let ids = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        let named = token_text(&config["eos_token"]).and_then(|text| tokenizer.id(&text));
        let ids = ids.into_iter().filter_map(|id| u32::try_from(id).ok());
        tokenizer.add_end_of_text(ids.chain(named).collect());
        Ok(tokenizer)
    }

    /// Reads the vocabulary of a GGUF file, obeying `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// A key is missing or of another type, the vocabulary contradicts itself, or the file asks for a
    /// tokenizer that is not implemented.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        let mut tokenizer = Self::build(gguf.path(), &ggml_vocabulary::tokenizer_json(gguf)?)?;
        let eos = optional(gguf.u32("tokenizer.ggml.eos_token_id"))?;
        let eot = optional(gguf.u32("tokenizer.ggml.eot_token_id"))?;
        tokenizer.add_end_of_text(eos.into_iter().chain(eot).collect());
        Ok(tokenizer)
    }

    fn build(file: &Path, document: &Value) -> Result<Self, TextError> {
        check_model(file, &document["model"])?;
        let spelling = spelling(file, &document["decoder"])?;
        let mut inner = tokenizers::Tokenizer::from_bytes(document.to_string())
            .map_err(|error| refused(file, error))?;
        // Left over from training in many files; a prompt is never cut or padded in silence.
        inner
            .with_truncation(None)
            .map_err(|error| refused(file, error))?;
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, _)| id)
            .collect();
        Ok(Self {
            inner,
            spelling,
            special,
            end_of_text: Vec::new(),
        })
    }

    /// `ids` that the vocabulary has, and the known markers that it treats as special.
    fn add_end_of_text(&mut self, ids: Vec<u32>) {
        let markers = END_MARKERS.iter().filter_map(|marker| self.id(marker));
        let markers = markers.filter(|id| self.special.contains(id));
        let known = ids
            .into_iter()
            .filter(|&id| self.inner.id_to_token(id).is_some());
        let all: BTreeSet<u32> = known.chain(markers).collect();
        self.end_of_text = all.into_iter().collect();
    }

    /// The ids of a text. Markers such as `<|im_start|>` in it become their own ids. `wrap` adds what
    /// the model wants around a plain prompt (often a first token); a chat template does so itself.
    ///
    /// A character that the vocabulary cannot spell is dropped; byte-level vocabularies spell all.
    ///
    /// # Errors
    /// The tokenizer library refused the text.
    pub fn encode(&self, text: &str, wrap: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, wrap);
        let encoding = encoding.map_err(|error| TextError::Encode {
            reason: error.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids that end an answer, ascending.
    pub fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    /// The bytes that a token adds to a text; none for special tokens and unknown ids.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        if self.special.contains(&id) {
            return Vec::new();
        }
        let added = self.inner.get_added_vocabulary().simple_id_to_token(id);
        match (added, self.inner.id_to_token(id)) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(token)) => self.spelling.bytes(&token),
            (None, None) => Vec::new(),
        }
    }
}

fn refused(file: &Path, error: tokenizers::Error) -> TextError {
    TextError::Tokenizer {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}

/// How tokens spell bytes, by the steps of the file's decoder.
fn spelling(file: &Path, decoder: &Value) -> Result<Spelling, TextError> {
    let steps = decoder.to_string();
    let has = |step: &str| steps.contains(&format!("\"{step}\""));
    if has("ByteLevel") {
        return Ok(Spelling::ByteLevel);
    }
    if has("ByteFallback") || has("Metaspace") {
        return Ok(Spelling::SentencePiece);
    }
    Err(TextError::Tokenizer {
        file: file.to_owned(),
        reason: format!(
            "the decoder is {steps}, expected one with ByteLevel, ByteFallback or Metaspace"
        ),
    })
}

/// Refuses settings that no supported family has. The library panics on a subword prefix that is
/// longer than a merged token, and dropout would make ids random.
fn check_model(file: &Path, model: &Value) -> Result<(), TextError> {
    let refuse = |key: &str, expected: &str| {
        Err(TextError::Tokenizer {
            file: file.to_owned(),
            reason: format!("model.{key} is {}, expected {expected}", model[key]),
        })
    };
    // Old files leave the type out.
    if !model["type"].is_null() && model["type"] != "BPE" {
        return refuse("type", "BPE");
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        if !model[key].is_null() && model[key] != "" && model[key] != 0.0 {
            return refuse(key, "none");
        }
    }
    Ok(())
}

/// A token in a configuration file: its text, or an object with it.
pub(crate) fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}

pub(crate) fn read_json(file: &Path) -> Result<Value, TextError> {
    let text = std::fs::read_to_string(file).map_err(|source| TextError::Io {
        file: file.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| TextError::Json {
        file: file.to_owned(),
        source,
    })
}

/// `Null` for a file that is not there.
pub(crate) fn optional_json(file: &Path) -> Result<Value, TextError> {
    match file.exists() {
        true => read_json(file),
        false => Ok(Value::Null),
    }
}
