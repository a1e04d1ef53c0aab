//! Pages: fixed runs of K and V rows, handed out from one bounded pool and returned by drop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lava_kernels::cuda::{Buffer, DeviceError, Gpu};

use crate::error::EngineError;

/// The memory of all compact caches of a process, whatever their row formats. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PagePool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    page_bytes: usize,
    pages: usize,
    state: Mutex<State>,
    /// All pages of a pool that is on a GPU.
    memory: Option<DevicePages>,
}

/// The pages of a pool on a GPU, one behind the other.
#[derive(Debug)]
pub(crate) struct DevicePages {
    pub(crate) gpu: Gpu,
    pub(crate) bytes: Buffer,
}

#[derive(Debug, Default)]
struct State {
    reserved: usize,
    /// Pages that have their memory: those in use, and the spare ones.
    made: usize,
    /// Buffers that were used before.
    spare: Vec<Page>,
}

impl PagePool {
    /// A pool of `pages` pages of so many bytes. Memory is taken as pages are first used and then kept.
    pub fn new(page_bytes: usize, pages: usize) -> Self {
        Self::with(page_bytes, pages, None)
    }

    /// A pool in a GPU's memory, which is taken at once.
    ///
    /// # Errors
    /// There is not so much.
    pub(crate) fn on(gpu: &Gpu, page_bytes: usize, pages: usize) -> Result<Self, EngineError> {
        let bytes = Buffer::new(&gpu.compute, page_bytes * pages).map_err(|error| match error {
            DeviceError::NoMemory { .. } => EngineError::NoDevicePages { pages, page_bytes },
            error => error.into(),
        })?;
        gpu.copies.wait_for(&gpu.compute.mark()?)?;
        let gpu = gpu.clone();
        let memory = Some(DevicePages { gpu, bytes });
        Ok(Self::with(page_bytes, pages, memory))
    }

    fn with(page_bytes: usize, pages: usize, memory: Option<DevicePages>) -> Self {
        Self {
            inner: Arc::new(Inner {
                page_bytes,
                pages,
                state: Mutex::default(),
                memory,
            }),
        }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.inner.page_bytes
    }

    /// Pages of the pool.
    pub fn pages(&self) -> usize {
        self.inner.pages
    }

    /// Pages that are reserved now.
    pub fn pages_reserved(&self) -> usize {
        self.inner.state().reserved
    }

    /// Pages whose memory was taken, which is as many as were ever in use at once.
    pub fn pages_made(&self) -> usize {
        self.inner.state().made
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
    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.pool.page_bytes
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
        let mut state = self.pool.state();
        if let Some(page) = state.spare.pop() {
            return page;
        }
        let number = state.made as u32;
        state.made += 1;
        drop(state);
        match self.pool.memory {
            Some(_) => Page::Device(number),
            None => Page::host(self.pool.page_bytes),
        }
    }

    /// Where its pages are, if that is on a GPU.
    pub(crate) fn on_device(&self) -> Option<&DevicePages> {
        self.pool.memory.as_ref()
    }

    /// Gives a page back to the reservation.
    pub(crate) fn give_back(&mut self, page: Page) {
        self.taken -= 1;
        self.pool.state().spare.push(page);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.state().reserved -= self.pages;
    }
}

/// One page.
#[derive(Debug)]
pub(crate) enum Page {
    /// In this machine's memory, aligned to elements of all formats.
    Host(Box<[u64]>),
    /// The page of this number in a GPU's memory.
    Device(u32),
}

impl Page {
    fn host(bytes: usize) -> Self {
        Self::Host(vec![0; bytes.div_ceil(size_of::<u64>())].into())
    }

    /// # Panics
    /// Here and below, if it is somewhere else.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Host(words) => bytemuck::cast_slice(words),
            Self::Device(number) => panic!("page {number} is on a GPU"),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Host(words) => bytemuck::cast_slice_mut(words),
            Self::Device(number) => panic!("page {number} is on a GPU"),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        match self {
            Self::Device(number) => *number,
            Self::Host(_) => panic!("a page of this machine's memory has no number"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pages: usize) -> PagePool {
        PagePool::new(64, pages)
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
    fn memory_is_taken_for_as_many_pages_as_are_in_use_at_once() {
        let pool = pool(10);
        for most in [2, 3, 1] {
            let mut reservation = pool.reserve(5).unwrap();
            let pages: Vec<Page> = (0..most).map(|_| reservation.take()).collect();
            pages
                .into_iter()
                .for_each(|page| reservation.give_back(page));
        }
        assert_eq!(pool.pages_made(), 3);
    }

    #[test]
    #[should_panic(expected = "exceeds its reservation of 1 pages")]
    fn taking_more_than_was_reserved_is_a_bug() {
        let mut reservation = pool(10).reserve(1).unwrap();
        reservation.take();
        reservation.take();
    }
}
