//! The allocator, which counts.

use lava_lab::bench::Heap;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// This process's.
pub(crate) const HEAP: Heap = Heap {
    bytes: || ALLOCATOR.current_usage(),
    peak_bytes: || ALLOCATOR.peak_usage(),
    forget: || ALLOCATOR.reset_peak_usage(),
};
