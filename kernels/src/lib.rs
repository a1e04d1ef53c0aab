//! The hot loops of the engine: products with weights, dense or quantised, causal attention over a whole prompt, the
//! window scores of LAVa, rows in their stored forms, and decode attention over ragged pages. This crate owns
//! arithmetic over borrowed slices, and weights in the form that it multiplies, and nothing else: it knows no model,
//! no request and no policy. `engine` calls it.
//!
//! Each kernel has a readable form in [`reference`] and a twin test that runs both over odd sizes.
//! Activations are token-major, `[tokens, heads, D]`, exactly as the projections produce them, so
//! nothing is transposed. The axis letters are those of ARCHITECTURE.md.

pub mod cuda;
mod decode;
mod exp;
mod gemm;
mod isa;
mod lanes;
mod matrix;
mod norm;
mod pool;
mod prefill;
pub mod reference;
mod residual;
mod rope;
mod rotation;
mod rows;
mod silu;
mod values;
mod vectorised;
mod window;

pub use decode::{DecodeHead, decode_attention};
pub use matrix::{BlockFormat, Matrix, product, products};
pub use norm::rms_norm;
pub use pool::in_pool;
pub use prefill::{AttentionShape, causal_attention};
pub use residual::add;
pub use rope::rotate_halves;
pub use rotation::{rotate, rotate_back};
pub use rows::{Half, HeadRows, Run, mean_key, pack_rows, store};
pub use silu::silu_product;
pub use values::{output_grams, value_norms, value_output_norms};
pub use window::{Observed, Wanted, observe};
