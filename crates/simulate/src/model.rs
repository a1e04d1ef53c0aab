//! What a simulated worker serves: a description, text files, and tokens that follow from what came before.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use lava::{Method, Shape};
use lava_kv::{CacheShape, RowFormat, WIRE_VERSION};
use lava_proto::worker as proto;
use lava_text::TextFiles;
use lava_worker::Refusal;
use xxhash_rust::xxh3::xxh3_64;

use crate::attempt::Attempt;

use crate::profile::{ModelProfile, ROW_FORMATS};

/// A model without weights. Immutable, so that the workers of one process share it.
#[derive(Debug)]
pub struct Model {
    pub(crate) profile: ModelProfile,
    pub(crate) fingerprint: [u8; 16],
    pub(crate) end_of_text: Vec<u32>,
    /// Ids that answers are made of.
    words: Vec<u32>,
    text: Bytes,
    text_digest: [u8; 16],
}

impl Model {
    /// Reads the text files.
    ///
    /// # Errors
    /// They are not there, or hold no words.
    pub fn load(profile: &ModelProfile) -> Result<Self> {
        let path = profile.text.as_deref();
        let path = path.context(
            "`model.text` is not given, expected a folder or a .gguf file with a tokenizer",
        )?;
        let text = TextFiles::open(path)?;
        let tokenizer = text.tokenizer()?;
        let end_of_text = tokenizer.end_of_text().to_vec();
        // Words of plain letters end in whole characters wherever they are cut.
        let is_word = |id: &u32| {
            let bytes = tokenizer.bytes(*id);
            bytes.len() > 1 && bytes.iter().all(|b| b.is_ascii_lowercase() || *b == b' ')
        };
        let ids = (0..profile.vocabulary).filter(|id| !end_of_text.contains(id));
        let words: Vec<u32> = ids.filter(is_word).collect();
        if words.is_empty() {
            bail!(
                "{} has no words below id {}",
                path.display(),
                profile.vocabulary
            );
        }
        let text = Bytes::from(text.to_bytes());
        let shape = format!("{profile:?}");
        Ok(Self {
            profile: profile.clone(),
            fingerprint: lava_proto::content_digest(shape.as_bytes()),
            end_of_text,
            words,
            text_digest: lava_proto::content_digest(&text),
            text,
        })
    }

    /// Name that requests ask for.
    pub fn name(&self) -> &str {
        &self.profile.name
    }

    /// What coordinators place by.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// `rows_max` of a reservation for an attempt.
    ///
    /// # Errors
    /// The attempt is not one.
    pub fn rows_grown_max(&self, attempt: proto::Attempt) -> Result<u64, Refusal> {
        Ok(Attempt::check(attempt, self)?.rows_grown_max() as u64)
    }

    /// The token that follows `last`, which is at `position`: as of a model that sees nothing else, so that an answer that goes on
    /// elsewhere is the same.
    pub fn next(&self, last: u32, position: usize) -> u32 {
        let seen = [
            u64::from(last).to_le_bytes(),
            (position as u64).to_le_bytes(),
        ]
        .concat();
        self.words[xxh3_64(&seen) as usize % self.words.len()]
    }

    /// As the engine's `ModelConfig::cache_shape`.
    pub(crate) fn cache_shape(
        &self,
        tokens: usize,
        method: &Method,
        budget: usize,
        format: RowFormat,
    ) -> CacheShape {
        let shape = self.shape(tokens);
        CacheShape {
            layers: shape.layers,
            kv_heads: shape.kv_heads,
            head_dim: self.profile.head_dim,
            tokens,
            window_rows: shape.window_rows(method, budget),
            wide_rows: match format.is_packed() {
                true => shape.pinned_rows(method, budget),
                false => tokens,
            },
            format,
        }
    }

    pub(crate) fn shape(&self, tokens: usize) -> Shape {
        Shape {
            layers: self.profile.layers,
            kv_heads: self.profile.kv_heads,
            tokens,
        }
    }

    /// Bytes of a page: sixteen entries in half precision.
    pub(crate) fn page_bytes(&self) -> usize {
        16 * RowFormat::F16.entry_bytes(self.profile.head_dim)
    }

    pub(crate) fn text(&self) -> Bytes {
        self.text.clone()
    }

    pub(crate) fn describe(&self) -> proto::Model {
        let profile = &self.profile;
        proto::Model {
            name: profile.name.clone(),
            fingerprint: self.fingerprint.to_vec().into(),
            positions_max: profile.positions_max as u32,
            layers: profile.layers as u32,
            kv_heads: profile.kv_heads as u32,
            head_dim: profile.head_dim as u32,
            vocabulary: profile.vocabulary,
            row_formats: ROW_FORMATS.iter().map(RowFormat::to_string).collect(),
            end_of_text: self.end_of_text.clone(),
            text_digest: self.text_digest.to_vec().into(),
            wire_version: WIRE_VERSION,
        }
    }
}
