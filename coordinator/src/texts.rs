//! The tokenizers and chat templates of the models, taken from workers.

use lava_proto::content_digest;
use lava_text::{ChatTemplate, TextError, TextFiles, Tokenizer, encode_chat};

use crate::convert::PromptForm;
use crate::snapshot::TextDigest;

/// What turns one model's text into ids and back.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    /// None if the model has none.
    template: Option<ChatTemplate>,
}

/// Why a worker's text files cannot be used. The worker is at fault, or the way to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextsError {
    #[error("the worker did not send its text files: {0}")]
    Call(#[from] Box<tonic::Status>),
    #[error("the worker did not send its text files in time")]
    Late,
    #[error("the text files have another digest than their worker says")]
    Digest,
    #[error("the text files cannot be used: {0}")]
    Unusable(#[from] TextError),
    #[error("building the tokenizer panicked")]
    Panicked,
}

impl Text {
    /// Builds both, which takes a second for a large vocabulary.
    ///
    /// # Errors
    /// The bytes are others than announced, or no text files that this release can use.
    pub(crate) fn new(content: &[u8], digest: TextDigest) -> Result<Text, TextsError> {
        if content_digest(content) != digest.0 {
            return Err(TextsError::Digest);
        }
        let files = TextFiles::from_bytes(content)?;
        let tokenizer = files.tokenizer()?;
        // A template that does not parse takes chat from the model, and nothing else.
        let template = match files.chat_template() {
            Ok(template) => Some(template),
            Err(TextError::NoTemplate) => None,
            Err(error) => {
                tracing::warn!(%error, "a model's chat template cannot be used");
                None
            }
        };
        Ok(Text {
            tokenizer,
            template,
        })
    }

    /// Whether the model takes chats.
    pub(crate) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The ids of a prompt. `today` is the date for templates that print one.
    ///
    /// # Errors
    /// The client's prompt does not fit the template, or the model has none.
    pub(crate) fn ids(&self, prompt: PromptForm, today: &str) -> Result<Vec<u32>, TextError> {
        match prompt {
            PromptForm::Ids(ids) => Ok(ids),
            PromptForm::Text(text) => self.tokenizer.encode(&text, true),
            PromptForm::Chat(messages) => {
                let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
                encode_chat(&self.tokenizer, template, &messages, today)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! A tokenizer for tests: ids 0 to 2 are special, id 3 + b is byte b.

    use lava_test_support::{HfDtype, ToyModel, VOCAB_MIN};

    use super::*;

    pub(crate) fn content() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let toy = ToyModel {
            vocab: VOCAB_MIN,
            ..ToyModel::default()
        };
        toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
        TextFiles::from_folder(folder.path()).unwrap().to_bytes()
    }

    pub(crate) fn text() -> Text {
        let content = content();
        Text::new(&content, TextDigest(content_digest(&content))).unwrap()
    }

    pub(crate) fn byte_id(byte: u8) -> u32 {
        3 + u32::from(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{byte_id, content, text};
    use super::*;
    use lava_text::Message;

    #[test]
    fn files_of_another_digest_are_refused() {
        let refused = Text::new(&content(), TextDigest([0; 16]));
        assert!(matches!(refused, Err(TextsError::Digest)));
        let junk = Text::new(b"{}", TextDigest(content_digest(b"{}")));
        assert!(matches!(junk, Err(TextsError::Unusable(_))));
    }

    #[test]
    fn each_form_of_prompt_becomes_ids() {
        let text = text();
        let ids = |form| text.ids(form, "24 Nov 2026").unwrap();
        assert_eq!(ids(PromptForm::Ids(vec![7, 8])), [7, 8]);
        let hi: Vec<u32> = b"hi".iter().copied().map(byte_id).collect();
        assert!(ids(PromptForm::Text("hi".into())).ends_with(&hi));
        let message = Message {
            role: "user".into(),
            content: "hi".into(),
        };
        let chat = ids(PromptForm::Chat(vec![message]));
        assert!(chat.windows(2).any(|pair| pair == hi));
    }
}
