//! The kernels of GPUs against their readable forms, on the CPU.

mod cuda;
mod cuda_caches;
mod cuda_decode;
