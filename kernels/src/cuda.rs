//! The kernels of GPUs, as far as they are plain data: which kernel runs over which grid, with which parameters. The
//! kernels themselves are in `kernels/cuda`. Whoever has a device runs a [`Launch`] on it; tests run the same launch
//! on the CPU, where every access to memory is watched.
//!
//! Addresses are those of device memory. Activations are token-major and in the 16-bit type that the model computes
//! in ([`Compute`]); rows lie in pages as in the caches of the CPU.

mod append;
mod cache;
#[cfg(feature = "cuda")]
mod card;
mod copy;
mod decode;
mod device;
mod floor;
mod gather;
mod layer;
mod prefill;
mod product;
mod rank;
mod window;

pub use append::Append;
pub use cache::{PoolPlace, SequencePlace, TablePlace};
#[cfg(feature = "cuda")]
pub use card::{CudaDevice, LIBRARIES, Library, Nccl, NcclError, NcclPeer};
pub use copy::{CopyRows, Direction, RunPlace};
pub use decode::{DecodeStep, pieces};
pub use device::{Buffer, Device, DeviceError, Gpu, Mark, Recording};
pub use floor::{Card, H100, Heads, Work};
pub use gather::{Gather, MeanKeys};
pub use layer::{AddAndNorm, Embed, SiluProduct, SplitHeads};
pub use prefill::PrefillAttention;
pub use product::Product;
pub use rank::{CountHeads, Rank, RankScratch, RankScratchBytes};
pub use window::{Norms, Scores, Statistic, ValueNorms, Window};

use half::{bf16, f16};
use lava_kv::RowFormat;

/// An address in device memory.
pub type Address = u64;

/// A kernel and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its name in the sources.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// The one struct that it takes.
    pub parameters: Vec<u8>,
}

/// What a model computes in on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Compute {
    /// As it stands in the names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Compute::F16 => "f16",
            Compute::Bf16 => "bf16",
        }
    }

    /// The nearest numbers, as they lie in memory.
    pub fn narrow(self, numbers: &[f32]) -> Vec<u8> {
        let bits = |x: &f32| match self {
            Compute::F16 => f16::from_f32(*x).to_bits(),
            Compute::Bf16 => bf16::from_f32(*x).to_bits(),
        };
        numbers.iter().flat_map(|x| bits(x).to_le_bytes()).collect()
    }

    /// The numbers that lie there.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let number = |bits: u16| match self {
            Compute::F16 => f16::from_bits(bits).to_f32(),
            Compute::Bf16 => bf16::from_bits(bits).to_f32(),
        };
        let (pairs, _) = bytes.as_chunks::<2>();
        let bits = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
        bits.map(number).collect()
    }
}

/// Head dims that the kernels are compiled for.
pub const HEAD_DIMS: [usize; 2] = [64, 128];

/// The row format whose kernel serves another one too: caches of f16 are those of int4 without packed rows.
fn served_as(format: RowFormat) -> RowFormat {
    match format {
        RowFormat::F32 => panic!("rows of f32 are for CPUs"),
        RowFormat::F16 => RowFormat::Int4,
        format => format,
    }
}

fn check_head_dim(head_dim: usize) {
    assert!(
        HEAD_DIMS.contains(&head_dim),
        "no kernel is compiled for a head dim of {head_dim}"
    );
}
