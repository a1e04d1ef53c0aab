//! Pages: fixed runs of K and V rows, handed out from one bounded pool and returned by drop.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use lava_kernels::PageRows;
use lava_kv::RowDtype;

use crate::error::EngineError;

/// The memory of all compact caches of a process. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PagePool {
    inner: Arc<Inner>,
}

/// What a page looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// Entries (one K and one V row each) of a page.
    pub rows: usize,
    /// D.
    pub head_dim: usize,
    /// How elements are stored.
    pub dtype: RowDtype,
}

impl PageShape {
    /// Bytes of one page.
    pub fn bytes(&self) -> usize {
        2 * self.rows * self.head_dim * self.dtype.bytes()
    }

    /// Pages that `rows` entries spread over `tables` tables can need at most: each table ends in
    /// at most one page that is not full.
    pub fn pages_max(&self, rows: usize, tables: usize) -> usize {
        rows / self.rows + tables
    }
}

impl PageShape {
    fn byte_range(&self, half: usize, rows: Range<usize>) -> Range<usize> {
        assert!(
            half < 2 && rows.end <= self.rows,
            "a page has two halves of rows"
        );
        let row = self.head_dim * self.dtype.bytes();
        let first = half * self.rows;
        (first + rows.start) * row..(first + rows.end) * row
    }
}

#[derive(Debug)]
struct Inner {
    shape: PageShape,
    pages: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reserved: usize,
    /// Buffers that were used before.
    spare: Vec<Buffer>,
}

impl PagePool {
    /// A pool of `pages` pages. Memory is taken as pages are first used and then kept.
    pub fn new(shape: PageShape, pages: usize) -> Self {
        let state = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                shape,
                pages,
                state,
            }),
        }
    }

    /// Shape of every page.
    pub fn shape(&self) -> PageShape {
        self.inner.shape
    }

    /// Pages of the pool.
    pub fn pages(&self) -> usize {
        self.inner.pages
    }

    /// Pages that are reserved now.
    pub fn pages_reserved(&self) -> usize {
        self.inner.state().reserved
    }

    /// Sets pages aside; they come back when the reservation and all its pages are dropped.
    ///
    /// # Errors
    /// `PoolFull` if other requests hold too much now, `PoolTooSmall` if it can never fit.
    pub fn reserve(&self, pages: usize) -> Result<Reservation, EngineError> {
        let total = self.inner.pages;
        if pages > total {
            return Err(EngineError::PoolTooSmall {
                needed: pages,
                total,
            });
        }
        let mut state = self.inner.state();
        let free = total - state.reserved;
        if pages > free {
            return Err(EngineError::PoolFull {
                needed: pages,
                free,
                total,
            });
        }
        state.reserved += pages;
        drop(state);
        let pool = Arc::clone(&self.inner);
        Ok(Reservation {
            pool,
            pages,
            taken: 0,
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pages set aside for one request.
#[derive(Debug)]
pub struct Reservation {
    pool: Arc<Inner>,
    pages: usize,
    taken: usize,
}

impl Reservation {
    /// Shape of every page.
    pub fn shape(&self) -> PageShape {
        self.pool.shape
    }

    /// Pages set aside, in use or not.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Pages in use.
    pub fn pages_taken(&self) -> usize {
        self.taken
    }

    /// A page out of the reservation. Its content is arbitrary.
    ///
    /// # Panics
    /// If the reservation is used up: the bound it was made with is wrong.
    pub(crate) fn take(&mut self) -> Page {
        assert!(
            self.taken < self.pages,
            "a request exceeds its reservation of {} pages",
            self.pages
        );
        self.taken += 1;
        let spare = self.pool.state().spare.pop();
        let buffer = spare.unwrap_or_else(|| Buffer::new(self.pool.shape));
        Page { buffer }
    }

    /// Gives a page back to the reservation.
    pub(crate) fn give_back(&mut self, page: Page) {
        self.taken -= 1;
        self.pool.state().spare.push(page.buffer);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.state().reserved -= self.pages;
    }
}

/// One page: K rows `[rows, D]`, then V rows `[rows, D]`.
#[derive(Debug)]
pub(crate) struct Page {
    buffer: Buffer,
}

#[derive(Debug)]
enum Buffer {
    F16(Box<[f16]>),
    Bf16(Box<[bf16]>),
    F32(Box<[f32]>),
}

impl Buffer {
    fn new(shape: PageShape) -> Self {
        let len = 2 * shape.rows * shape.head_dim;
        match shape.dtype {
            RowDtype::F16 => Self::F16(vec![f16::ZERO; len].into()),
            RowDtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len].into()),
            RowDtype::F32 => Self::F32(vec![0.0; len].into()),
        }
    }
}

impl Page {
    pub(crate) fn rows(&self) -> PageRows<'_> {
        match &self.buffer {
            Buffer::F16(x) => PageRows::F16(x),
            Buffer::Bf16(x) => PageRows::Bf16(x),
            Buffer::F32(x) => PageRows::F32(x),
        }
    }

    /// Stores one entry at `row`, rounded to the page's dtype.
    pub(crate) fn write(&mut self, shape: PageShape, row: usize, key: &[f32], value: &[f32]) {
        let d = shape.head_dim;
        assert!(row < shape.rows && key.len() == d && value.len() == d);
        for (start, source) in [(row * d, key), ((shape.rows + row) * d, value)] {
            match &mut self.buffer {
                Buffer::F16(x) => {
                    half::slice::HalfFloatSliceExt::convert_from_f32_slice(
                        &mut x[start..start + d],
                        source,
                    );
                }
                Buffer::Bf16(x) => {
                    half::slice::HalfFloatSliceExt::convert_from_f32_slice(
                        &mut x[start..start + d],
                        source,
                    );
                }
                Buffer::F32(x) => x[start..start + d].copy_from_slice(source),
            }
        }
    }
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F16(x) => bytemuck::cast_slice(x),
            Self::Bf16(x) => bytemuck::cast_slice(x),
            Self::F32(x) => bytemuck::cast_slice(x),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F16(x) => bytemuck::cast_slice_mut(x),
            Self::Bf16(x) => bytemuck::cast_slice_mut(x),
            Self::F32(x) => bytemuck::cast_slice_mut(x),
        }
    }
}

// Rows travel little-endian and lie in memory as the machine has them.
#[cfg(target_endian = "big")]
compile_error!("rows are copied to and from the wire as they are: little-endian machines only");

impl Page {
    /// Bytes of the keys (`half` 0) or values (`half` 1) of the entries `rows`.
    pub(crate) fn bytes(&self, shape: PageShape, half: usize, rows: Range<usize>) -> &[u8] {
        &self.buffer.bytes()[shape.byte_range(half, rows)]
    }

    /// As [`Page::bytes`], to be written.
    pub(crate) fn bytes_mut(
        &mut self,
        shape: PageShape,
        half: usize,
        rows: Range<usize>,
    ) -> &mut [u8] {
        &mut self.buffer.bytes_mut()[shape.byte_range(half, rows)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pages: usize) -> PagePool {
        let shape = PageShape {
            rows: 4,
            head_dim: 2,
            dtype: RowDtype::F32,
        };
        PagePool::new(shape, pages)
    }

    #[test]
    fn a_reservation_is_refused_when_the_pool_cannot_hold_it() {
        let pool = pool(10);
        let held = pool.reserve(7).unwrap();
        assert!(matches!(
            pool.reserve(4),
            Err(EngineError::PoolFull {
                needed: 4,
                free: 3,
                total: 10
            })
        ));
        assert!(matches!(
            pool.reserve(11),
            Err(EngineError::PoolTooSmall {
                needed: 11,
                total: 10
            })
        ));
        drop(held);
        assert_eq!(pool.pages_reserved(), 0);
        pool.reserve(10).unwrap();
    }

    #[test]
    #[should_panic(expected = "exceeds its reservation of 1 pages")]
    fn taking_more_than_was_reserved_is_a_bug() {
        let mut reservation = pool(10).reserve(1).unwrap();
        reservation.take();
        reservation.take();
    }
}
