//! The kernels of GPUs against their readable forms, on the CPU.

mod card_bench;
mod cuda;
mod cuda_append;
mod cuda_caches;
mod cuda_copy;
mod cuda_decode;
mod cuda_gather;
mod cuda_layer;
mod cuda_prefill;
mod cuda_rank;
mod cuda_window;
