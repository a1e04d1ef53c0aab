//! A model in memory and what others need to know of it.

use std::sync::Arc;

use bytes::Bytes;
use lava_engine::{LoadError, Model, ModelFiles, RowFormat};
use lava_kv::WIRE_VERSION;
use lava_proto::worker as proto;
use lava_text::{TextError, TextFiles};

/// A loaded model. Immutable, so that the roles of one process share it.
#[derive(Debug)]
pub struct Loaded {
    /// Name that requests ask for.
    pub name: String,
    /// The model.
    pub model: Model,
    /// How rows may be stored and shipped.
    pub row_formats: Vec<RowFormat>,
    /// Workers with equal ones can be paired.
    pub fingerprint: [u8; 16],
    /// Ids that end an answer.
    pub end_of_text: Vec<u32>,
    text: Bytes,
    text_digest: [u8; 16],
}

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadedError {
    /// Its weights or configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It would take no request.
    #[error("model.row_formats is f32 alone, which a GPU does not hold, expected another one")]
    NoRowFormat,
    /// Its tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl Loaded {
    /// Loads weights and text files. `progress(done, total)` is called after each layer.
    ///
    /// # Errors
    /// A file is missing, broken, or of a kind that is not supported.
    pub fn load(
        section: &crate::ModelSection,
        name: String,
        files: &ModelFiles,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Arc<Self>, LoadedError> {
        let row_formats = section.held_formats();
        if row_formats.is_empty() {
            return Err(LoadedError::NoRowFormat);
        }
        // What is quickly read is refused before the weights are read.
        TextFiles::open(files.path())?.tokenizer()?;
        let model = section.load(files, progress)?;
        Self::of(model, name, row_formats, files)
    }

    /// A model that is in memory already; `files` are those that it came from.
    ///
    /// # Errors
    /// Its tokenizer or chat template is missing or broken.
    pub fn of(
        model: Model,
        name: String,
        row_formats: Vec<RowFormat>,
        files: &ModelFiles,
    ) -> Result<Arc<Self>, LoadedError> {
        let text = TextFiles::open(files.path())?;
        let end_of_text = text.tokenizer()?.end_of_text().to_vec();
        let text = Bytes::from(text.to_bytes());
        Ok(Arc::new(Self {
            name,
            fingerprint: model.fingerprint(),
            model,
            row_formats,
            end_of_text,
            text_digest: lava_proto::content_digest(&text),
            text,
        }))
    }

    /// Tokenizer and chat template, as `lava_text::TextFiles` writes them.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// What coordinators place by.
    pub fn describe(&self) -> proto::Model {
        let config = self.model.config();
        proto::Model {
            name: self.name.clone(),
            fingerprint: self.fingerprint.to_vec().into(),
            positions_max: config.positions_max() as u32,
            layers: config.layers as u32,
            kv_heads: config.kv_heads as u32,
            head_dim: config.head_dim as u32,
            vocabulary: config.vocabulary as u32,
            row_formats: self.row_formats.iter().map(RowFormat::to_string).collect(),
            end_of_text: self.end_of_text.clone(),
            text_digest: self.text_digest.to_vec().into(),
            wire_version: WIRE_VERSION,
        }
    }
}
