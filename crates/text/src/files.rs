//! What turns text into ids and back for one model, as plain data.

use std::path::{Path, PathBuf};

use lava_gguf::{Gguf, optional};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::ChatTemplate;
use crate::error::TextError;
use crate::ggml_vocabulary;
use crate::tokenizer::Tokenizer;

/// The tokenizer, chat template and end-of-text ids of a model's files. A worker reads them and hands
/// them on; whoever speaks text builds a [`Tokenizer`] and a [`ChatTemplate`] from them without a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFiles {
    /// The file to name in errors; no part of the bytes, so that copies of a model stay equal.
    #[serde(skip, default = "received")]
    origin: PathBuf,
    /// A `tokenizer.json` document.
    tokenizer: Value,
    /// The chat template's source.
    chat_template: Option<String>,
    /// The text of the first token, for the template.
    bos_token: Option<String>,
    /// The text of the end-of-text token, for the template; its id ends an answer too.
    eos_token: Option<String>,
    /// The ids that the files call ends of text, in their order. The vocabulary may lack some.
    end_of_text: Vec<u32>,
}

impl TextFiles {
    /// Reads a model's files: a Hugging Face folder, or else a GGUF file.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder) and [`from_gguf`](Self::from_gguf), or the file is no GGUF.
    pub fn open(path: &Path) -> Result<Self, TextError> {
        match path.is_dir() {
            true => Self::from_folder(path),
            false => Self::from_gguf(&Gguf::open(path)?),
        }
    }

    /// Reads `tokenizer.json` of a Hugging Face folder and the files beside it: end-of-text ids are in
    /// `generation_config.json`, the chat template in `chat_template.jinja` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file is unreadable or no JSON, or there is no `tokenizer.json`.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let origin = folder.join("tokenizer.json");
        let tokenizer = read_json(&origin)?;
        let generation = optional_json(&folder.join("generation_config.json"))?;
        let config = optional_json(&folder.join("tokenizer_config.json"))?;
        let template = folder.join("chat_template.jinja");
        let chat_template = match template.exists() {
            true => Some(read(&template)?),
            false => template_of(&config["chat_template"]),
        };
        let ids = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        Ok(Self {
            origin,
            tokenizer,
            chat_template,
            bos_token: token_text(&config["bos_token"]),
            eos_token: token_text(&config["eos_token"]),
            end_of_text: ids
                .into_iter()
                .filter_map(|id| u32::try_from(id).ok())
                .collect(),
        })
    }

    /// Reads the metadata of a GGUF file; the tokenizer obeys `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// A key is missing or of another type, or the file asks for a tokenizer that is not implemented.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        let tokenizer = ggml_vocabulary::tokenizer_json(gguf)?;
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let id = |key| optional(gguf.u32(key));
        let text = |id: Option<u32>| tokens.get(id? as usize).cloned();
        let bos = id("tokenizer.ggml.bos_token_id")?;
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let eot = id("tokenizer.ggml.eot_token_id")?;
        Ok(Self {
            origin: gguf.path().to_owned(),
            tokenizer,
            chat_template: optional(gguf.str("tokenizer.chat_template"))?.map(str::to_owned),
            bos_token: text(bos),
            eos_token: text(eos),
            end_of_text: eos.into_iter().chain(eot).collect(),
        })
    }

    /// A form for the wire, JSON: equal files give equal bytes, whatever the order of their keys. A
    /// vocabulary of 150,000 tokens takes some 5 MB.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("every key is a string")
    }

    /// From what [`to_bytes`](Self::to_bytes) gave to another process.
    ///
    /// # Errors
    /// These are no such bytes. Whether tokenizer and template can be built shows when they are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        serde_json::from_slice(bytes).map_err(TextError::Bytes)
    }

    /// The tokenizer; a vocabulary of 150,000 tokens takes some 0.3 s.
    ///
    /// # Errors
    /// The document contradicts itself, or asks for what no supported family has.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        let mut tokenizer = Tokenizer::new(&self.origin, &self.tokenizer)?;
        let named = self
            .eos_token
            .as_deref()
            .and_then(|text| tokenizer.id(text));
        tokenizer.end_at(self.end_of_text.iter().copied().chain(named).collect());
        Ok(tokenizer)
    }

    /// The chat template.
    ///
    /// # Errors
    /// There is none, or it does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate, TextError> {
        let source = self.chat_template.clone().ok_or(TextError::NoTemplate)?;
        let text = |token: &Option<String>| token.clone().unwrap_or_default();
        ChatTemplate::new(source, text(&self.bos_token), text(&self.eos_token))
    }
}

fn received() -> PathBuf {
    "text files from another process".into()
}

/// One template, or the one called `default` among several.
fn template_of(value: &Value) -> Option<String> {
    let named = || {
        value
            .as_array()?
            .iter()
            .find(|entry| entry["name"] == "default")
    };
    let text = value.as_str().or_else(|| named()?["template"].as_str());
    text.map(str::to_owned)
}

/// A token in a configuration file: its text, or an object with it.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}

fn read(file: &Path) -> Result<String, TextError> {
    std::fs::read_to_string(file).map_err(|source| TextError::Io {
        file: file.to_owned(),
        source,
    })
}

fn read_json(file: &Path) -> Result<Value, TextError> {
    serde_json::from_str(&read(file)?).map_err(|source| TextError::Json {
        file: file.to_owned(),
        source,
    })
}

/// `Null` for a file that is not there.
fn optional_json(file: &Path) -> Result<Value, TextError> {
    match file.exists() {
        true => read_json(file),
        false => Ok(Value::Null),
    }
}
