//! How fast the engine of this process is: prompts, and batches over compact caches.

mod decode;
mod prefill;

pub use decode::{DecodeCase, DecodeRate, Rounds, decode};
pub use prefill::{Heap, PrefillCase, PrefillCost, prefill};

use lava_engine::Model;

/// Ids of an arbitrary prompt.
fn prompt(model: &Model, tokens: usize) -> Vec<u32> {
    let vocabulary = model.config().vocabulary;
    (0..tokens)
        .map(|i| (i * 7919 % vocabulary) as u32)
        .collect()
}

/// The middle value; of an even number the upper one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
