//! The hot loops of the engine that candle lacks: causal attention over a whole prompt, the window
//! scores of LAVa, rows in their stored forms, and decode attention over ragged pages. This crate owns arithmetic over borrowed
//! slices and nothing else: it knows no model, no request and no policy. `engine` calls it.
//!
//! Each kernel has a readable form in [`reference`] and a twin test that runs both over odd sizes.
//! Activations are token-major, `[tokens, heads, D]`, exactly as the projections produce them, so
//! nothing is transposed. The axis letters are those of ARCHITECTURE.md.

mod decode;
mod exp;
mod gemm;
mod lanes;
mod prefill;
pub mod reference;
mod rope;
mod rotation;
mod rows;
mod vectorised;
mod window;

pub use decode::{DecodeHead, decode_attention};
pub use prefill::{AttentionShape, causal_attention};
pub use rope::rotate_halves;
pub use rotation::{rotate, rotate_back};
pub use rows::{Half, Run, mean_key, pack_key, pack_value, store};
pub use window::{Observed, Wanted, observe, output_grams, value_norms, value_output_norms};
