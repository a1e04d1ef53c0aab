//! What a GPU needs besides itself: libraries that are loaded when it is asked for.

use std::ffi::c_int;

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

/// What our kernels are compiled for: 13.0, as drivers from 580 on have it.
const CUDA_MIN: c_int = 13_000;

/// Whether all that is needed is there and new enough. cudarc panics where a library, or a function in it, cannot be loaded.
pub(super) fn check() -> Result<(), DeviceError> {
    let mut needed = LIBRARIES.iter().filter(|library| library.is_needed);
    if let Some(missing) = needed.find(|library| !library.is_there()) {
        return Err(DeviceError::NoLibrary {
            library: missing.file,
            needs: missing.without,
        });
    }
    match cuda_of_driver()? {
        found if found < CUDA_MIN => Err(DeviceError::OldDriver {
            found: found.try_into().unwrap_or(0),
            expected: CUDA_MIN.unsigned_abs(),
        }),
        _ => Ok(()),
    }
}

/// The newest CUDA that the driver knows, as 13000 for 13.0.
#[allow(unsafe_code, reason = "see below")]
fn cuda_of_driver() -> Result<c_int, DeviceError> {
    const DOING: &str = "asking the driver for its version";
    // SAFETY: this is the driver, see above.
    let driver = unsafe { libloading::Library::new(LIBRARIES[0].file) };
    let driver = driver.map_err(super::failed(DOING))?;
    // SAFETY: this is the function's type in cuda.h.
    let ask =
        unsafe { driver.get::<unsafe extern "C" fn(*mut c_int) -> c_int>("cuDriverGetVersion") };
    let mut version = 0;
    // SAFETY: it writes one number, and may be called before anything else.
    let code = unsafe { ask.map_err(super::failed(DOING))?(&raw mut version) };
    match code {
        0 => Ok(version),
        code => Err(super::failed(DOING)(format!("code {code}"))),
    }
}
