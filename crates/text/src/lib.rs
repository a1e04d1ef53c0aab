//! Text and token ids: tokenizers, chat templates, turning ids back into text as they come, and stop
//! strings. This crate owns the meaning of a model's vocabulary and refuses to know tensors, weights
//! and the network. The coordinator and the command line call it; workers read [`TextFiles`] and hand
//! them on, but never see text.

#![forbid(unsafe_code)]

mod files;
mod ggml_vocabulary;

mod chat;
mod date;
mod markers;
mod prompt;
mod spelling;
mod tokenizer;

mod detokenizer;
mod stop;

mod error;

pub use chat::{ChatTemplate, Message};
pub use date::date;
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use files::TextFiles;
pub use prompt::encode_chat;
pub use stop::{Checked, StopStrings};
pub use tokenizer::Tokenizer;
