//! Memory of this machine that a GPU reads and writes by itself, several times as fast as other memory.

use std::sync::Arc;

use cudarc::driver::result as driver;
use cudarc::driver::{CudaContext, DriverError};

/// Bytes that the system keeps in place; freed by drop.
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    begin: *mut u8,
    len: usize,
}

// SAFETY: it owns its memory, which any thread may use and free.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Pinned {}

impl Pinned {
    #[allow(
        unsafe_code,
        reason = "cudarc's own form of it waits for events that this one has none of"
    )]
    pub(super) fn zeros(context: &Arc<CudaContext>, len: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: `len` is not 0, and what is taken is freed once, below.
        let begin = unsafe { driver::malloc_host(len, 0) }?.cast::<u8>();
        // SAFETY: there are `len` bytes.
        unsafe { begin.write_bytes(0, len) };
        let context = Arc::clone(context);
        Ok(Self {
            context,
            begin,
            len,
        })
    }

    #[allow(unsafe_code, reason = "see below")]
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: there are `len` bytes, written at the start, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.begin, self.len) }
    }
}

impl Drop for Pinned {
    #[allow(unsafe_code, reason = "see below")]
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: it was taken from there, and whoever copied to or from it has waited for that.
        let _ = unsafe { driver::free_host(self.begin.cast()) };
    }
}
