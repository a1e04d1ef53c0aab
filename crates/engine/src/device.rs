//! The decoder on a GPU: what `host` does, as launches of `kernels/cuda` and products. The host decides which kernel
//! runs when, and what is kept; activations, full K and V, and pages never leave the GPU.

mod block;
mod cache;
mod decode;
mod model;
mod observer;
mod prefill;
mod steps;
mod upload;

pub(crate) use cache::DeviceCache;
pub use cache::RowReader;
pub(crate) use model::DeviceModel;
