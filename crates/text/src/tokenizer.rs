//! The tokenizer of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedVocabulary, ModelWrapper};

use crate::error::TextError;
use crate::markers::{self, Piece};
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
    /// The added tokens, to be found wherever they are spelled.
    added: AddedVocabulary,
    end_of_text: Vec<u32>,
}

impl Tokenizer {
    /// From a `tokenizer.json` document; `file` is for errors. No id ends an answer yet.
    pub(crate) fn new(file: &Path, document: &Value) -> Result<Self, TextError> {
        check_model(file, &document["model"])?;
        check_steps(file, document)?;
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
        let added = markers::anywhere(added).map_err(|error| refused(file, error))?;
        Ok(Self {
            inner,
            spelling,
            special,
            added,
            end_of_text: Vec::new(),
        })
    }

    /// Ends answers at `ids` that the vocabulary has, and at the known markers that it treats as special.
    pub(crate) fn end_at(&mut self, ids: Vec<u32>) {
        let markers = END_MARKERS.iter().filter_map(|marker| self.id(marker));
        let markers = markers.filter(|id| self.special.contains(id));
        let known = ids
            .into_iter()
            .filter(|&id| self.inner.id_to_token(id).is_some());
        let all: BTreeSet<u32> = known.chain(markers).collect();
        self.end_of_text = all.into_iter().collect();
    }

    /// The ids of a text. Markers such as `<|im_start|>` in it become their own ids, whoever wrote them:
    /// for a chat with strangers use [`encode_chat`](crate::encode_chat). `wrap` adds what the model
    /// wants around a plain prompt (often a first token); a chat template does so itself.
    ///
    /// A character that the vocabulary cannot spell is dropped; byte-level vocabularies spell all.
    ///
    /// # Errors
    /// The tokenizer library refused the text.
    pub fn encode(&self, text: &str, wrap: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, wrap);
        Ok(encoding.map_err(not_encoded)?.get_ids().to_vec())
    }

    /// The ids of a text in which `stand_ins` stand for added tokens. Their usual spellings are
    /// ordinary text.
    pub(crate) fn encode_with(
        &self,
        stand_ins: &BTreeMap<u32, char>,
        text: &str,
    ) -> Result<Vec<u32>, TextError> {
        markers::encode_with(&self.inner, stand_ins, text).map_err(not_encoded)
    }

    /// `text` cut at every spelling of an added token.
    pub(crate) fn cut(&self, text: &str) -> Vec<Piece> {
        markers::cut(&self.added, None, text)
    }

    /// `text` cut where [`encode`](Self::encode) finds added tokens: it sees the normalized text, and
    /// some tokens want to be whole words.
    pub(crate) fn cut_as_encoded(&self, text: &str) -> Vec<Piece> {
        let normalizer = self.inner.get_normalizer();
        markers::cut(self.inner.get_added_vocabulary(), normalizer, text)
    }

    /// Ids of tokens that are no text.
    pub(crate) fn special(&self) -> &BTreeSet<u32> {
        &self.special
    }

    /// Every added token's spelling.
    pub(crate) fn added_texts(&self) -> impl Iterator<Item = &str> {
        self.added.get_vocab().keys().map(String::as_str)
    }

    /// The id that stands for text which the vocabulary cannot spell.
    pub(crate) fn unknown(&self) -> Option<u32> {
        match self.inner.get_model() {
            ModelWrapper::BPE(model) => self.id(model.unk_token.as_deref()?),
            _ => None,
        }
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

fn not_encoded(error: tokenizers::Error) -> TextError {
    TextError::Encode {
        reason: error.to_string(),
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

/// Refuses steps that no supported family has, and on whose settings the library can panic.
fn check_steps(file: &Path, document: &Value) -> Result<(), TextError> {
    for (key, step) in [
        ("normalizer", "Precompiled"),
        ("pre_tokenizer", "FixedLength"),
    ] {
        if document[key].to_string().contains(&format!("\"{step}\"")) {
            return Err(TextError::Tokenizer {
                file: file.to_owned(),
                reason: format!("{key} has {step}, which no supported family has"),
            });
        }
    }
    Ok(())
}
