//! A GPU that launches are run on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError,
    LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

use super::{Address, Launch};

/// What nvcc made of `kernels/cuda`, a file each.
const IMAGES: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A GPU with our kernels, and one stream on which all its work is done in order.
pub struct Device {
    stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
    /// Those that were launched before.
    functions: Mutex<HashMap<String, CudaFunction>>,
}

/// Bytes in a device's memory; freed by drop.
pub struct DeviceBuffer {
    bytes: CudaSlice<u8>,
    address: Address,
}

/// Why a device could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// libcuda is not there.
    #[error("there is no NVIDIA driver on this machine: libcuda.so.1 cannot be loaded")]
    NoDriver,
    /// No kernel has this name.
    #[error("there is no kernel {0:?} for this device")]
    NoKernel(String),
    /// What the driver says.
    #[error("{doing}: {source}")]
    Driver {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: DriverError,
    },
}

fn driver(doing: &'static str) -> impl FnOnce(DriverError) -> DeviceError {
    move |source| DeviceError::Driver { doing, source }
}

impl Device {
    /// The device of this number, counted from 0.
    ///
    /// # Errors
    /// A machine without a driver or without that device, or whose driver cannot run our kernels.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        if !has_driver() {
            return Err(DeviceError::NoDriver);
        }
        let context = CudaContext::new(ordinal).map_err(driver("opening the device"))?;
        let load = |image: &&[u8]| context.load_module(Ptx::from_binary(image.to_vec()));
        let modules: Result<Vec<_>, _> = IMAGES.iter().map(load).collect();
        Ok(Self {
            stream: context.new_stream().map_err(driver("making a stream"))?,
            modules: modules.map_err(driver("loading our kernels"))?,
            functions: Mutex::default(),
        })
    }

    /// Its name, as the driver has it.
    ///
    /// # Errors
    /// The driver's.
    pub fn name(&self) -> Result<String, DeviceError> {
        self.stream
            .context()
            .name()
            .map_err(driver("asking for its name"))
    }

    /// So many zeros.
    ///
    /// # Errors
    /// The driver's: no memory is left.
    pub fn zeros(&self, bytes: usize) -> Result<DeviceBuffer, DeviceError> {
        // The driver has no empty buffers.
        let bytes = self.stream.alloc_zeros::<u8>(bytes.max(1));
        let bytes = bytes.map_err(driver("taking device memory"))?;
        let address = bytes.device_ptr(&self.stream).0;
        Ok(DeviceBuffer { bytes, address })
    }

    /// Copies bytes into a buffer, from an offset on.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(
        &self,
        buffer: &mut DeviceBuffer,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut part = buffer.bytes.slice_mut(offset..offset + bytes.len());
        let copied = self.stream.memcpy_htod(bytes, &mut part);
        copied.map_err(driver("copying to the device"))
    }

    /// The bytes of a part of a buffer, after all work before.
    ///
    /// # Errors
    /// The driver's; also those of work before.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn read(
        &self,
        buffer: &DeviceBuffer,
        offset: usize,
        bytes: usize,
    ) -> Result<Vec<u8>, DeviceError> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let part = buffer.bytes.slice(offset..offset + bytes);
        let copied = self.stream.clone_dtoh(&part);
        copied.map_err(driver("copying from the device"))
    }

    /// Runs a kernel behind all work before. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// An unknown kernel, or the driver's.
    #[allow(unsafe_code, reason = "kernels are launched here and nowhere else")]
    pub fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        let function = self.function(&launch.kernel)?;
        let [x, y, z] = launch.grid;
        if x * y * z == 0 {
            // Nothing to do, which the driver takes for a mistake.
            return Ok(());
        }
        let shape = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // Words, so that the struct is aligned as the kernel's own is.
        let words: Vec<u64> = launch.parameters.chunks(8).map(word).collect();
        let mut launched = self.stream.launch_builder(&function);
        // The driver copies as many bytes from there as the kernel's one parameter has.
        launched.arg(&words[0]);
        // SAFETY: `launch.parameters` is the kernel's struct of parameters (the tests in tests/it run every launch, and
        // a struct of another size is refused there); the addresses in it are those of live buffers, which is what
        // whoever made the launch vouches for, as with every device pointer.
        let result = unsafe { launched.launch(shape) };
        result.map(|_| ()).map_err(driver("launching a kernel"))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.stream
            .synchronize()
            .map_err(driver("waiting for the device"))
    }

    fn function(&self, name: &str) -> Result<CudaFunction, DeviceError> {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let found = self
            .modules
            .iter()
            .find_map(|module| module.load_function(name).ok());
        let function = found.ok_or_else(|| DeviceError::NoKernel(name.to_owned()))?;
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}

impl DeviceBuffer {
    /// Where it begins in the device's memory.
    pub fn address(&self) -> Address {
        self.address
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Whether libcuda can be loaded: cudarc panics where it cannot.
#[allow(unsafe_code, reason = "loading a library runs its code")]
fn has_driver() -> bool {
    // SAFETY: what is loaded is the driver's own library, as every program that uses a GPU does.
    unsafe { cudarc::driver::sys::is_culib_present() }
}
