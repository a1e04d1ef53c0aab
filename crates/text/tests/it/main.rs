//! Text against llama.cpp and Jinja, and what is refused.

mod chat;
mod detokenizer;
mod files;
mod folders;
mod gguf_refusals;
mod models;
mod prompt;
mod tokens;
