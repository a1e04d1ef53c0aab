//! Toy models for tests: random weights of every supported architecture, in memory and in the file formats that
//! real checkpoints come in. One [`ToyModel`] gives the same numbers as tensors under Hugging Face names, as a
//! Hugging Face folder and as a GGUF file, so a test can load it twice and demand equality. The writers share no
//! code with the crates that read, which is what makes them a check. And a real etcd, whose nodes are killed and
//! frozen; a GPU that is none; and what stands for NCCL. A `[dev-dependencies]` entry only: no program may use it.

mod architecture;
mod encode;
mod etcd;
mod fabric;
mod gguf;
mod gguf_file;
mod gpu;
mod hf;
mod model;
mod permute;
mod ports;
mod random;
mod rope;
mod tokenizer;

pub use architecture::Architecture;
pub use etcd::Etcd;
pub use fabric::{FabricFaults, FakeFabric, Fault, Switch};
pub use gguf::GgufKind;
pub use gpu::WatchedGpu;
pub use hf::HfDtype;
pub use model::{ToyModel, ToyTensor};
pub use ports::free_ports;
pub use rope::RopeScaling;
pub use tokenizer::VOCAB_MIN;

pub use lava_cuda_on_cpu::Order;
