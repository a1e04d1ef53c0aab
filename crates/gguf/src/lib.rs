//! The GGUF container: which keys a file holds, which tensors, and where their bytes lie.
//!
//! This crate owns the bytes of the format and nothing of their meaning: it does not know what a
//! tokenizer or a layer is, and it never decodes a quantised block. `text` reads metadata through
//! it, `engine` reads tensors.
//!
//! A file is taken for hostile until it is read: every length is compared with the bytes that are
//! left before memory is asked for, so a broken file costs an error and no more memory than a few
//! times its own size.
//!
//! ```no_run
//! # fn main() -> Result<(), lava_gguf::GgufError> {
//! use lava_gguf::{Gguf, optional};
//!
//! let gguf = Gguf::open("model.gguf".as_ref())?;
//! let layers = gguf.usize("llama.block_count")?;
//! let template = optional(gguf.str("tokenizer.chat_template"))?;
//! let embedding = gguf.read(gguf.tensor("token_embd.weight")?)?;
//! # Ok(()) }
//! ```

mod error;
mod file;
mod kind;
mod metadata;
mod parse;
mod reader;
mod tensor;
mod value;

pub use error::{Fault, GgufError, optional};
pub use file::Gguf;
pub use kind::GgmlType;
pub use tensor::TensorInfo;
pub use value::{Array, Value};
