//! Text against llama.cpp, and what is refused.

mod detokenizer;
mod models;
mod oracle;
mod refusals;
