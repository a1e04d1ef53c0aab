//! Random numbers on a device, from which the memory of all cases is filled without the host.

use std::sync::Arc;

use lava_kernels::cuda::{Buffer, Compute, Device, DeviceError};

use super::random::Random;

/// What the models compute in, as workers do by default.
pub(crate) const COMPUTE: Compute = Compute::Bf16;

/// Bytes that the host draws of each type. What is larger repeats them.
const DRAWN_BYTES: usize = 1 << 20;

/// Numbers in -1..1 in the types of 16 bits.
pub(crate) struct Stock {
    pub(crate) device: Arc<dyn Device>,
    /// In [`COMPUTE`].
    activations: Buffer,
    /// In half precision, as wide rows and the scales of packed ones are.
    halves: Buffer,
}

impl Stock {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Self, DeviceError> {
        let values = Random(1).values(DRAWN_BYTES / size_of::<u16>());
        Ok(Self {
            device: Arc::clone(device),
            activations: Buffer::of(device, &COMPUTE.narrow(&values))?,
            halves: Buffer::of(device, &Compute::F16.narrow(&values))?,
        })
    }

    pub(crate) fn activations(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        self.repeated(&self.activations, bytes)
    }

    pub(crate) fn halves(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        self.repeated(&self.halves, bytes)
    }

    /// What is there is copied behind itself until there is enough.
    fn repeated(&self, drawn: &Buffer, bytes: usize) -> Result<Buffer, DeviceError> {
        let buffer = Buffer::new(&self.device, bytes)?;
        let mut there = bytes.min(drawn.len());
        let first = drawn.part(0, there);
        self.device.copy(buffer.part(0, there), first, there)?;
        while there < bytes {
            let more = there.min(bytes - there);
            let behind = buffer.part(there, more);
            self.device.copy(behind, buffer.address(), more)?;
            there += more;
        }
        Ok(buffer)
    }
}
