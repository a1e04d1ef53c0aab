//! What a GPU needs besides itself: libraries that are loaded when it is asked for.

use super::DeviceError;

/// A library of CUDA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its file name.
    pub file: &'static str,
    /// What to do where it is missing, or what is lost.
    pub without: &'static str,
    /// Whether nothing runs on a GPU without it.
    pub is_needed: bool,
}

/// In the order in which they are needed.
pub const LIBRARIES: [Library; 3] = [
    Library {
        file: "libcuda.so.1",
        without: "this machine has no NVIDIA driver",
        is_needed: true,
    },
    Library {
        file: "libcublas.so.13",
        without: "install CUDA 13's cuBLAS, or name its folder in LD_LIBRARY_PATH",
        is_needed: true,
    },
    NCCL,
];

/// For links that are to go over it.
pub(super) const NCCL: Library = Library {
    file: "libnccl.so.2",
    without: "install NCCL (pip install nvidia-nccl-cu13, with its folder in LD_LIBRARY_PATH), or let caches go over gRPC",
    is_needed: false,
};

impl Library {
    /// Whether it can be loaded.
    #[allow(unsafe_code, reason = "loading a library runs its code")]
    pub fn is_there(&self) -> bool {
        // SAFETY: these are the driver's and CUDA's own libraries, which every program that uses a GPU loads.
        unsafe { libloading::Library::new(self.file) }.is_ok()
    }
}

/// cudarc panics where a library cannot be loaded.
pub(super) fn check() -> Result<(), DeviceError> {
    let needed = LIBRARIES.iter().filter(|library| library.is_needed);
    match needed.into_iter().find(|library| !library.is_there()) {
        Some(missing) => Err(DeviceError::NoLibrary {
            library: missing.file,
            needs: missing.without,
        }),
        None => Ok(()),
    }
}
