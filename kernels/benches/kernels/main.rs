//! How fast each kernel is, on the sizes of SmolLM2-135M and Qwen2.5-1.5B: `cargo bench --bench kernels`. Figures with
//! machine and commit stand in `kernels/README.md`. Elements are what a group's file says.

mod attention;
mod draw;
mod elementwise;
mod products;
mod rows;
mod window;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    kernels,
    products::bench,
    attention::causal,
    attention::decode,
    window::bench,
    rows::bench,
    elementwise::bench,
);
criterion_main!(kernels);
