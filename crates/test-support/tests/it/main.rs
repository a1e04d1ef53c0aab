//! The written files, read back by independent readers.

mod gguf;
mod hf;
