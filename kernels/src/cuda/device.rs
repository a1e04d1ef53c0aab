//! What the engine asks of a GPU.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{Address, Launch, Product};

/// A queue of a GPU, or of what stands for one in tests: memory, kernels and matrix products. All work is done in the
/// order in which it was asked for, whoever asked; what goes wrong in it may be told by a later call. After an error
/// other than [`NoMemory`](DeviceError::NoMemory) a device is of no more use.
///
/// Another queue of the same GPU is another device with the same memory. Its work is done beside this one's, but for
/// what [waits for a mark](Device::wait_for); that is true of taking and freeing memory too.
pub trait Device: fmt::Debug + Send + Sync {
    /// What it is called.
    fn name(&self) -> String;

    /// All memory that it has, in bytes.
    ///
    /// # Errors
    /// The device's.
    fn memory_bytes(&self) -> Result<u64, DeviceError>;

    /// Memory with nothing in particular in it, aligned to 256 bytes. [`Buffer::new`] is what frees it again.
    ///
    /// # Errors
    /// No memory is left; or the device's.
    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError>;

    /// Gives back what [`allocate`](Device::allocate) gave, behind all work before.
    fn free(&self, address: Address);

    /// Copies bytes to the device. They may be used for other things afterwards.
    ///
    /// # Errors
    /// The device's.
    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies bytes from the device, after all work before.
    ///
    /// # Errors
    /// The device's; also those of work before.
    fn read(&self, from: Address, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Sets every byte of a part of its memory to `value`.
    ///
    /// # Errors
    /// The device's.
    fn fill(&self, at: Address, bytes: usize, value: u8) -> Result<(), DeviceError>;

    /// Copies bytes within its memory, to where they do not overlap.
    ///
    /// # Errors
    /// The device's.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Runs a kernel. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// There is no such kernel, or the device's.
    fn run(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Multiplies matrices.
    ///
    /// # Errors
    /// The device's.
    fn multiply(&self, product: &Product) -> Result<(), DeviceError>;

    /// Where this queue's work ends now.
    ///
    /// # Errors
    /// The device's.
    fn mark(&self) -> Result<Mark, DeviceError>;

    /// Lets what is asked from now on begin when all work before the mark is done, which is another queue's of the same
    /// GPU.
    ///
    /// # Errors
    /// The device's.
    fn wait_for(&self, mark: &Mark) -> Result<(), DeviceError>;

    /// Returns when all work is done.
    ///
    /// # Errors
    /// What went wrong in it.
    fn wait(&self) -> Result<(), DeviceError>;

    /// From now on kernels and products that are asked for are written down and not done. Nothing else may be asked for
    /// until the [end](Device::end_recording).
    ///
    /// # Errors
    /// The device's.
    fn begin_recording(&self) -> Result<(), DeviceError>;

    /// What was written down.
    ///
    /// # Errors
    /// The device's; nothing is written down any more then either.
    fn end_recording(&self) -> Result<Recording, DeviceError>;

    /// Does what was written down, with the same addresses.
    ///
    /// # Errors
    /// The device's.
    fn replay(&self, recording: &Recording) -> Result<(), DeviceError>;
}

/// Kernels and products of a queue, to be done any number of times: what the device made that wrote them down.
#[derive(Clone)]
pub struct Recording(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}

/// A point in a queue of a GPU: what the device made that gave it.
#[derive(Clone)]
pub struct Mark(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A GPU with two queues.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// On which models compute.
    pub compute: Arc<dyn Device>,
    /// On which rows are copied to and from this machine meanwhile.
    pub copies: Arc<dyn Device>,
}

/// Why a device could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A library is not on this machine.
    #[error("{library} cannot be loaded: {needs}")]
    NoLibrary {
        /// Its file name.
        library: &'static str,
        /// What brings it.
        needs: &'static str,
    },
    /// The driver is older than what the kernels were compiled for.
    #[error(
        "the driver knows CUDA up to {}.{}, expected {}.{} or newer", found / 1000, found % 1000 / 10, expected / 1000,
        expected % 1000 / 10
    )]
    OldDriver {
        /// Its newest CUDA, as 13000 for 13.0.
        found: u32,
        /// The least that works.
        expected: u32,
    },
    /// No kernel has this name.
    #[error("there is no kernel {0:?} for this device")]
    NoKernel(String),
    /// Nothing is wrong, but there is too little memory now.
    #[error("the GPU has no {bytes} bytes of memory left")]
    NoMemory {
        /// That were asked for.
        bytes: usize,
    },
    /// What the device says.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// The device's own words.
        reason: String,
    },
}

/// Bytes in a device's memory; freed by drop.
#[derive(Debug)]
pub struct Buffer {
    device: Arc<dyn Device>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    /// So many bytes with nothing in particular in them.
    ///
    /// # Errors
    /// No memory is left.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        // Drivers have no empty buffers.
        let address = device.allocate(bytes.max(1))?;
        let device = Arc::clone(device);
        Ok(Self {
            device,
            address,
            bytes,
        })
    }

    /// With these bytes.
    ///
    /// # Errors
    /// No memory is left.
    pub fn of(device: &Arc<dyn Device>, bytes: &[u8]) -> Result<Self, DeviceError> {
        let buffer = Self::new(device, bytes.len())?;
        buffer.write(0, bytes)?;
        Ok(buffer)
    }

    /// Where it begins in the device's memory.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where a part of so many bytes begins.
    ///
    /// # Panics
    /// Here and below, if the part is not within the buffer.
    pub fn part(&self, offset: usize, bytes: usize) -> Address {
        assert!(
            offset + bytes <= self.bytes,
            "{bytes} bytes at {offset} of a buffer of {}",
            self.bytes
        );
        self.address + offset as u64
    }

    /// Copies bytes into it, from an offset on.
    ///
    /// # Errors
    /// The device's.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let to = self.part(offset, bytes.len());
        match bytes.is_empty() {
            true => Ok(()),
            false => self.device.write(to, bytes),
        }
    }

    /// The bytes of a part, after all work before.
    ///
    /// # Errors
    /// The device's; also those of work before.
    pub fn read(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, DeviceError> {
        let from = self.part(offset, bytes);
        let mut out = vec![0; bytes];
        if bytes > 0 {
            self.device.read(from, &mut out)?;
        }
        Ok(out)
    }

    /// Sets all its bytes.
    ///
    /// # Errors
    /// The device's.
    pub fn fill(&self, value: u8) -> Result<(), DeviceError> {
        match self.bytes {
            0 => Ok(()),
            bytes => self.device.fill(self.address, bytes, value),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.free(self.address);
    }
}
