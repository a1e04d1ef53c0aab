//! What all tests of CUDA kernels share.

use std::path::{Path, PathBuf};

use lava_cuda_on_cpu::{Edit, Fault, Gpu, Memory, Order, Program};
use lava_kernels::cuda::{Compute, Launch};

/// Compiles a file of `kernels/cuda`.
pub(crate) fn program(name: &str, edits: &[Edit<'_>]) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda-on-cpu");
    Program::compile(&folder, &[name], edits, &cache).unwrap_or_else(|error| panic!("{error}"))
}

/// What runs kernels: the CPU, which watches them; or, where `LAVA_CARD` names a device by its number, that one, whose
/// kernels are those that were built into this crate.
pub(crate) enum Runner {
    Cpu(Program),
    #[cfg(feature = "cuda")]
    Card(Box<Card>),
}

impl Runner {
    /// For the kernels of a file.
    pub(crate) fn new(name: &str) -> Self {
        match std::env::var("LAVA_CARD") {
            Err(_) => Self::Cpu(program(name, &[])),
            #[cfg(feature = "cuda")]
            Ok(number) => Self::Card(Box::new(Card::new(number.parse().expect("a number")))),
            #[cfg(not(feature = "cuda"))]
            Ok(_) => panic!("LAVA_CARD is set, but the tests are built without the feature `cuda`"),
        }
    }

    /// A place for buffers.
    pub(crate) fn gpu(&self, order: Order) -> Gpu {
        match self {
            Self::Cpu(_) => Gpu::new(order),
            #[cfg(feature = "cuda")]
            Self::Card(card) => Gpu::at(card.arena.address(), order),
        }
    }

    pub(crate) fn run(&self, gpu: Gpu) -> Result<Memory, Fault> {
        match self {
            Self::Cpu(program) => gpu.run(program),
            #[cfg(feature = "cuda")]
            Self::Card(card) => card.run(&gpu),
        }
    }
}

/// A device, and memory of it that holds all buffers of a test.
#[cfg(feature = "cuda")]
pub(crate) struct Card {
    device: std::sync::Arc<dyn lava_kernels::cuda::Device>,
    arena: lava_kernels::cuda::Buffer,
}

#[cfg(feature = "cuda")]
impl Card {
    /// Many buffers with room between them.
    const ARENA_BYTES: usize = 2 << 30;

    fn new(number: usize) -> Self {
        let device = lava_kernels::cuda::CudaDevice::open(number);
        let device = device.unwrap_or_else(|error| panic!("{error}")).compute;
        let arena = lava_kernels::cuda::Buffer::new(&device, Self::ARENA_BYTES).unwrap();
        Self { device, arena }
    }

    fn run(&self, gpu: &Gpu) -> Result<Memory, Fault> {
        let fault = |error: lava_kernels::cuda::DeviceError| Fault(error.to_string());
        let first = self.arena.address();
        for buffer in gpu.buffers() {
            let offset = (buffer.address - first) as usize;
            self.arena.write(offset, &buffer.bytes).map_err(fault)?;
        }
        for launch in gpu.launches() {
            let launch = Launch {
                kernel: launch.kernel.clone(),
                grid: launch.grid,
                threads: launch.threads,
                parameters: launch.parameters.clone(),
            };
            self.device.run(&launch).map_err(fault)?;
        }
        let read = |buffer: &lava_cuda_on_cpu::Buffer| {
            let offset = (buffer.address - first) as usize;
            let bytes = self.arena.read(offset, buffer.bytes.len());
            bytes.map(|bytes| (buffer.address, bytes)).map_err(fault)
        };
        let contents: Result<Vec<_>, Fault> = gpu.buffers().iter().map(read).collect();
        Ok(Memory::new(contents?))
    }
}

pub(crate) fn launch(gpu: &mut Gpu, launch: &Launch) {
    gpu.launch(
        &launch.kernel,
        launch.grid,
        launch.threads,
        &launch.parameters,
    );
}

/// Orders that show a missing barrier between them.
pub(crate) const ORDERS: [Order; 3] = [Order::Forward, Order::Backward, Order::Mixed(7)];

/// Even numbers, from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.bits() as usize % end
    }

    /// From -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 30) as f32 - 1.0
    }

    /// As a model computes in.
    pub(crate) fn elements(&mut self, count: usize, size: f32, compute: Compute) -> Vec<f32> {
        (0..count)
            .map(|_| round(self.unit() * size, compute))
            .collect()
    }
}

/// The nearest number of a type.
pub(crate) fn round(x: f32, compute: Compute) -> f32 {
    compute.widen(&compute.narrow(&[x]))[0]
}

/// Demands that a planted bug is found: in some order of threads, `check` says that the answer is wrong, or the
/// machine has found a fault. Lines of `unused` kernels are not compiled.
#[track_caller]
pub(crate) fn is_found(
    name: &str,
    unused: &[&str],
    edit: Edit<'_>,
    check: impl Fn(&Runner, Order) -> Result<bool, Fault>,
) {
    let mut edits: Vec<Edit<'_>> = unused.iter().map(|from| Edit { from, to: "" }).collect();
    let sound = Runner::Cpu(program(name, &edits));
    for order in ORDERS {
        assert_eq!(check(&sound, order), Ok(true), "without a bug, {order:?}");
    }
    edits.push(edit);
    let broken = Runner::Cpu(program(name, &edits));
    let found = ORDERS.map(|order| check(&broken, order));
    assert!(
        found.iter().any(|found| *found != Ok(true)),
        "nobody noticed {:?}",
        edit.to
    );
}

/// What a buffer of numbers holds.
pub(crate) fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    let numbers = bytes.chunks_exact(size_of::<T>());
    numbers.map(bytemuck::pod_read_unaligned).collect()
}
