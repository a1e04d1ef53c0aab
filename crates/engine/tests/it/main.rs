//! The engine against other implementations, on toy weights and on real models.

mod agreement;
mod blocks;
mod compression;
mod on_gpu;
mod ours;
mod real_models;
mod refusals;
mod theirs;
mod together;
mod toys;
