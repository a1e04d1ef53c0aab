//! The memory of one case.

use std::sync::Arc;

use bytemuck::Pod;
use lava_kernels::cuda::{Address, Buffer, Device, DeviceError, Launch};

use super::stock::Stock;

/// Buffers of a case that is prepared.
pub(crate) struct Memory<'a> {
    stock: &'a Stock,
    buffers: Vec<Buffer>,
}

/// Launches that are timed together, and what they work on.
pub(crate) struct Prepared {
    device: Arc<dyn Device>,
    launches: Vec<Launch>,
    /// To be freed after the last run.
    _buffers: Vec<Buffer>,
}

impl<'a> Memory<'a> {
    pub(crate) fn new(stock: &'a Stock) -> Self {
        Self {
            stock,
            buffers: Vec::new(),
        }
    }

    /// So many random numbers as the model computes in.
    pub(crate) fn activations(&mut self, count: usize) -> Result<Address, DeviceError> {
        let buffer = self.stock.activations(size_of::<u16>() * count)?;
        Ok(self.keep(buffer))
    }

    /// So many bytes of random numbers in half precision.
    pub(crate) fn halves(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        let buffer = self.stock.halves(bytes)?;
        Ok(self.keep(buffer))
    }

    /// What the host made.
    pub(crate) fn of<T: Pod>(&mut self, values: &[T]) -> Result<Address, DeviceError> {
        let bytes = bytemuck::cast_slice(values);
        let buffer = Buffer::of(&self.stock.device, bytes)?;
        Ok(self.keep(buffer))
    }

    /// So many bytes of this value.
    pub(crate) fn filled(&mut self, bytes: usize, value: u8) -> Result<Address, DeviceError> {
        let buffer = Buffer::new(&self.stock.device, bytes)?;
        buffer.fill(value)?;
        Ok(self.keep(buffer))
    }

    /// So many bytes that kernels write before they read them.
    pub(crate) fn room(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        let buffer = Buffer::new(&self.stock.device, bytes)?;
        Ok(self.keep(buffer))
    }

    /// Runs what has to be done once, before all that is timed.
    pub(crate) fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.stock.device.run(launch)
    }

    /// With what is timed.
    pub(crate) fn prepared(self, launches: Vec<Launch>) -> Prepared {
        Prepared {
            device: Arc::clone(&self.stock.device),
            launches,
            _buffers: self.buffers,
        }
    }

    fn keep(&mut self, buffer: Buffer) -> Address {
        let address = buffer.address();
        self.buffers.push(buffer);
        address
    }
}

impl Prepared {
    /// Asks for all launches. It may be done any number of times.
    pub(crate) fn run(&self) -> Result<(), DeviceError> {
        let mut launches = self.launches.iter();
        launches.try_for_each(|launch| self.device.run(launch))
    }
}
