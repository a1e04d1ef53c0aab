//! Small arrays on their way to a GPU, in one copy; and back.

use std::sync::Arc;

use bytemuck::{AnyBitPattern, Pod};
use lava_kernels::cuda::{Address, Buffer, Device, DeviceError};

/// Of what the widest loads of kernels want.
const ALIGNMENT: usize = 16;

/// Arrays behind each other.
#[derive(Debug, Default)]
pub(crate) struct Upload(Vec<u8>);

/// Where an array of an [`Upload`] begins in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    offset: usize,
    bytes: usize,
}

impl Upload {
    /// One more array.
    pub(crate) fn add<T: Pod>(&mut self, values: &[T]) -> Place {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        let (offset, bytes) = (self.0.len(), size_of_val(values));
        self.0.extend_from_slice(bytemuck::cast_slice(values));
        Place { offset, bytes }
    }

    /// All of them as they lie in a buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// All of them in a buffer.
    pub(crate) fn send(self, device: &Arc<dyn Device>) -> Result<Buffer, DeviceError> {
        Buffer::of(device, &self.0)
    }
}

impl Place {
    pub(crate) fn within(self, buffer: &Buffer) -> Address {
        buffer.part(self.offset, self.bytes)
    }
}

/// The numbers of an array that came back.
pub(crate) fn numbers<T: AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    let each = bytes.chunks_exact(size_of::<T>());
    each.map(bytemuck::pod_read_unaligned).collect()
}
