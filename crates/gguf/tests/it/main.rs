//! GGUF files written by hand, read whole, cut, flipped and asked for what they do not have.

mod damage;
mod reading;
mod refusals;
mod writer;
