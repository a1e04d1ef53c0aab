//! What this machine has for GPUs.

/// Libraries and GPUs of a machine.
#[derive(Clone, Debug)]
pub struct Gpus {
    /// Each library that is loaded when a GPU is asked for, and what is said where it is missing.
    pub libraries: Vec<(&'static str, Option<&'static str>)>,
    /// The release of NCCL, as 22809 for 2.28.9, or why it cannot be used.
    pub nccl: Result<u32, String>,
    /// Name and bytes of memory of each GPU, by its number.
    pub gpus: Vec<(String, u64)>,
}

impl Gpus {
    /// What there is; nothing if this program is built without CUDA.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(feature = "cuda")]
    pub fn find() -> Result<Option<Self>, crate::EngineError> {
        use lava_kernels::cuda::{CudaDevice, LIBRARIES, Nccl};

        let libraries = LIBRARIES.map(|library| {
            let missing = (!library.is_there()).then_some(library.without);
            (library.file, missing)
        });
        let can_run = LIBRARIES
            .iter()
            .all(|library| library.is_there() || !library.is_needed);
        let mut gpus = Vec::new();
        for number in 0..if can_run { CudaDevice::count()? } else { 0 } {
            let queue = CudaDevice::open(number)?.compute;
            gpus.push((queue.name(), queue.memory_bytes()?));
        }
        let libraries = libraries.to_vec();
        Ok(Some(Self {
            libraries,
            nccl: Nccl::find().map_err(|error| error.to_string()),
            gpus,
        }))
    }

    /// What there is; nothing if this program is built without CUDA.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(not(feature = "cuda"))]
    pub fn find() -> Result<Option<Self>, crate::EngineError> {
        Ok(None)
    }
}
