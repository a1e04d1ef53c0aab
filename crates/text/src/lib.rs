//! Text and token ids: tokenizers, chat templates, turning ids back into text as they come, and stop
//! strings. This crate owns the meaning of a model's vocabulary and refuses to know tensors, weights
//! and the network. The coordinator and the command line call it; workers never see text.

#![forbid(unsafe_code)]

mod chat;
mod detokenizer;
mod error;
mod ggml_vocabulary;
mod spelling;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop::{Checked, StopStrings};
pub use tokenizer::Tokenizer;
