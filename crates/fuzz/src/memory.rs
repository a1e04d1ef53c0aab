//! How much memory a step takes.

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a step may take besides a multiple of its input: tables of fixed size, errors, what other threads do meanwhile.
pub(crate) const SLACK_BYTES: usize = 1 << 20;

/// Does a step.
///
/// # Panics
/// If it had more than `most` bytes at once, besides those that were there before.
pub(crate) fn within<T>(most: usize, step: impl FnOnce() -> T) -> T {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let result = step();
    let used = HEAP.peak_usage().saturating_sub(before);
    assert!(
        used <= most,
        "{used} bytes of memory, at most {most} are allowed"
    );
    result
}
