//! Two GPUs that NCCL joins.
//!
//! NCCL is loaded under the name that its packages for running programs have, `libnccl.so.2`; cudarc, whose declarations these are, looks
//! for the one of its packages for developers, and panics without it. Communicators do not block, so that everything has an end: an
//! operation that takes too long is given up, and drop aborts what is under way on the GPU.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::result as driver;
use cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_READY;
use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclUniqueId};
use libloading::Library;

use super::libraries::NCCL;
use super::pinned::Pinned;
use crate::cuda::{Address, DeviceError};

/// What `ncclConfig_t` begins with where it is initialised (nccl.h).
const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// The release that cudarc's `ncclConfig_t` is of; later ones know it.
const CONFIG_VERSION: u32 = 2 * 10_000 + 28 * 100;
/// An attribute that NCCL decides about.
const UNDECIDED: c_int = c_int::MIN;
/// Blocks of a transfer at most: the engine has the other multiprocessors, and each takes memory for its buffers.
const BLOCKS_MAX: c_int = 4;
/// The sender and the receiver.
const RANKS: c_int = 2;

/// Codes of `ncclResult_t`. It is a number here and not cudarc's enum: other releases have other ones.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// How long an operation is looked at without pause, and the pauses then.
const EAGER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(50);

/// NCCL, for one GPU of this process.
pub struct Nccl {
    calls: Arc<Calls>,
    context: Arc<CudaContext>,
}

/// One of two ends.
pub struct NcclPeer {
    calls: Arc<Calls>,
    communicator: ncclComm_t,
    peer: c_int,
    stream: Arc<CudaStream>,
    /// On both sides of the bus, for one payload.
    device: Address,
    host: Pinned,
    bytes_max: usize,
}

// SAFETY: NCCL wants one thread at a time for a communicator, which `&mut` sees to; the driver lets any thread use a context that it has
// named, which every call below does first.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for NcclPeer {}

/// Why NCCL could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// The other end is gone or stuck.
    #[error("{doing} takes too long")]
    Late {
        /// What was tried.
        doing: &'static str,
    },
    /// What NCCL says.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// In its words.
        reason: String,
    },
    /// The GPU's.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The functions of nccl.h that are used.
struct Calls {
    version: u32,
    get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> c_int,
    init: unsafe extern "C" fn(
        *mut ncclComm_t,
        c_int,
        ncclUniqueId,
        c_int,
        *mut ncclConfig_t,
    ) -> c_int,
    async_error: unsafe extern "C" fn(ncclComm_t, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, Type, c_int, ncclComm_t, CUstream) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, usize, Type, c_int, ncclComm_t, CUstream) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
}

type Type = ncclDataType_t;

impl Nccl {
    /// For the device of this number, counted from 0.
    ///
    /// # Errors
    /// A library is missing, or a function in it; or there is no such device.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let calls = Arc::new(Calls::load()?);
        super::libraries::check()?;
        let context = CudaContext::new(ordinal).map_err(super::failed("opening the device"))?;
        Ok(Self { calls, context })
    }

    /// The release that this machine has, which is loaded, looked through, and asked for an id. This needs no GPU.
    ///
    /// # Errors
    /// There is none, a function is missing in it, or it finds no network.
    pub fn find() -> Result<u32, NcclError> {
        let calls = Calls::load()?;
        calls.unique_id()?;
        Ok(calls.version)
    }

    /// Its release, as 22809 for 2.28.9.
    pub fn version(&self) -> u32 {
        self.calls.version
    }

    /// What two ends find each other by.
    ///
    /// # Errors
    /// NCCL's: this machine has no network interface that it takes, say.
    #[allow(unsafe_code, reason = "see below")]
    pub fn unique_id(&self) -> Result<[u8; 128], NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it writes one id there.
        let code = unsafe { (self.calls.get_unique_id)(&raw mut id) };
        self.calls
            .check("making an id", code, std::ptr::null_mut())?;
        Ok(id.internal.map(|byte| byte.cast_unsigned()))
    }

    /// Joins the other end, which does the same with the other of the ranks 0 and 1. Payloads have `bytes_max` bytes at most.
    ///
    /// # Errors
    /// The other end did not come in time; NCCL's; or the GPU's.
    #[allow(unsafe_code, reason = "see below")]
    pub fn join(
        &self,
        id: &[u8; 128],
        rank: i32,
        bytes_max: usize,
        within: Duration,
    ) -> Result<NcclPeer, NcclError> {
        let until = Instant::now() + within;
        let context = &self.context;
        context
            .bind_to_thread()
            .map_err(super::failed("using the device"))?;
        // SAFETY: it is freed once, by drop below.
        let device = unsafe { driver::malloc_sync(bytes_max) };
        let device = device.map_err(super::failed("taking device memory"))?;
        let mut joined = NcclPeer {
            calls: Arc::clone(&self.calls),
            communicator: std::ptr::null_mut(),
            peer: 1 - rank,
            stream: context
                .new_stream()
                .map_err(super::failed("making a stream"))?,
            device,
            host: Pinned::zeros(context, bytes_max)
                .map_err(super::failed("taking pinned memory"))?,
            bytes_max,
        };
        let mut config = config();
        let id = ncclUniqueId {
            internal: id.map(u8::cast_signed),
        };
        // SAFETY: communicator and configuration are ours and live longer than the call; NCCL copies the configuration.
        let code = unsafe {
            (self.calls.init)(
                &raw mut joined.communicator,
                RANKS,
                id,
                rank,
                &raw mut config,
            )
        };
        joined.settle("joining", code, until)?;
        Ok(joined)
    }
}

impl NcclPeer {
    /// Sends bytes, and returns when they have left.
    ///
    /// # Errors
    /// They did not leave in time; NCCL's; or the GPU's. It is of no more use then.
    ///
    /// # Panics
    /// Here and below, if there are more than it was made for.
    #[allow(unsafe_code, reason = "see below")]
    pub fn send(&mut self, payload: &[u8], within: Duration) -> Result<(), NcclError> {
        const DOING: &str = "sending";
        assert!(payload.len() <= self.bytes_max);
        let until = Instant::now() + within;
        self.bind()?;
        let staged = &mut self.host.bytes()[..payload.len()];
        staged.copy_from_slice(payload);
        let stream = self.stream.cu_stream();
        // SAFETY: there is room for `bytes_max` bytes on both sides, and nothing else is under way on them: what was is finished.
        let copied = unsafe { driver::memcpy_htod_async(self.device, staged, stream) };
        copied.map_err(super::failed("copying to the device"))?;
        let from = self.device as *const c_void;
        // SAFETY: as above.
        let code = unsafe {
            (self.calls.send)(
                from,
                payload.len(),
                Type::ncclUint8,
                self.peer,
                self.communicator,
                stream,
            )
        };
        self.settle(DOING, code, until)?;
        self.finish(DOING, until)
    }

    /// Receives as many bytes as there is room for, which must be as many as the other end sends.
    ///
    /// # Errors
    /// They did not come in time; NCCL's; or the GPU's. It is of no more use then.
    #[allow(unsafe_code, reason = "see below")]
    pub fn receive(&mut self, out: &mut [u8], within: Duration) -> Result<(), NcclError> {
        const DOING: &str = "receiving";
        assert!(out.len() <= self.bytes_max);
        let until = Instant::now() + within;
        self.bind()?;
        let stream = self.stream.cu_stream();
        let to = self.device as *mut c_void;
        // SAFETY: there is room for `bytes_max` bytes, and nothing else is under way there.
        let code = unsafe {
            (self.calls.receive)(
                to,
                out.len(),
                Type::ncclUint8,
                self.peer,
                self.communicator,
                stream,
            )
        };
        self.settle(DOING, code, until)?;
        let staged = &mut self.host.bytes()[..out.len()];
        // SAFETY: as above, on both sides.
        let copied = unsafe { driver::memcpy_dtoh_async(staged, self.device, stream) };
        copied.map_err(super::failed("copying from the device"))?;
        self.finish(DOING, until)?;
        out.copy_from_slice(&self.host.bytes()[..out.len()]);
        Ok(())
    }

    fn bind(&self) -> Result<(), DeviceError> {
        let context = self.stream.context();
        context
            .bind_to_thread()
            .map_err(super::failed("using the device"))
    }

    /// Waits until NCCL has taken a call in; it works on it by itself.
    #[allow(unsafe_code, reason = "see below")]
    fn settle(
        &self,
        doing: &'static str,
        mut code: c_int,
        until: Instant,
    ) -> Result<(), NcclError> {
        let began = Instant::now();
        while code == IN_PROGRESS {
            wait(doing, began, until)?;
            // SAFETY: the communicator is live from its first call on, and one code is written.
            let asked = unsafe { (self.calls.async_error)(self.communicator, &raw mut code) };
            self.calls.check(doing, asked, self.communicator)?;
        }
        self.calls.check(doing, code, self.communicator)
    }

    /// Waits until the GPU is done. NCCL's own threads may fail meanwhile.
    #[allow(unsafe_code, reason = "see below")]
    fn finish(&self, doing: &'static str, until: Instant) -> Result<(), NcclError> {
        let event: CudaEvent = self
            .stream
            .record_event(None)
            .map_err(super::failed("marking a stream"))?;
        let began = Instant::now();
        loop {
            // SAFETY: the event is live.
            match unsafe { driver::event::query(event.cu_event()) } {
                Ok(()) => return Ok(()),
                Err(error) if error.0 == CUDA_ERROR_NOT_READY => {}
                Err(error) => return Err(super::failed(doing)(error).into()),
            }
            let mut code = SUCCESS;
            // SAFETY: the communicator is live, and one code is written.
            let asked = unsafe { (self.calls.async_error)(self.communicator, &raw mut code) };
            self.calls.check(doing, asked, self.communicator)?;
            if code != IN_PROGRESS {
                self.calls.check(doing, code, self.communicator)?;
            }
            wait(doing, began, until)?;
        }
    }
}

impl Drop for NcclPeer {
    #[allow(unsafe_code, reason = "see below")]
    fn drop(&mut self) {
        let _ = self.bind();
        if !self.communicator.is_null() {
            // SAFETY: it is live and nobody uses it any more. What is under way on the GPU ends by this; there is nobody to tell how.
            let _ = unsafe { (self.calls.abort)(self.communicator) };
        }
        // SAFETY: it was taken from there, and is freed behind all work.
        let _ = unsafe { driver::free_sync(self.device) };
    }
}

fn wait(doing: &'static str, began: Instant, until: Instant) -> Result<(), NcclError> {
    let now = Instant::now();
    if now >= until {
        return Err(NcclError::Late { doing });
    }
    match now - began < EAGER {
        true => thread::yield_now(),
        false => thread::sleep(PAUSE),
    }
    Ok(())
}

/// What `NCCL_CONFIG_INITIALIZER` is, but for calls that do not block.
fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDECIDED,
        minCTAs: UNDECIDED,
        maxCTAs: BLOCKS_MAX,
        netName: std::ptr::null(),
        splitShare: UNDECIDED,
        trafficClass: UNDECIDED,
        commName: std::ptr::null(),
        collnetEnable: UNDECIDED,
        CTAPolicy: UNDECIDED,
        shrinkShare: UNDECIDED,
        nvlsCTAs: UNDECIDED,
        nChannelsPerNetPeer: UNDECIDED,
        nvlinkCentricSched: UNDECIDED,
    }
}

impl Calls {
    #[allow(unsafe_code, reason = "see below")]
    fn load() -> Result<Self, DeviceError> {
        // SAFETY: this is NCCL, which every program that uses several GPUs loads.
        let library = unsafe { Library::new(NCCL.file) };
        let library = library.map_err(|_| DeviceError::NoLibrary {
            library: NCCL.file,
            needs: NCCL.without,
        })?;
        let get_version: unsafe extern "C" fn(*mut c_int) -> c_int =
            function(&library, "ncclGetVersion")?;
        let mut version = 0;
        // SAFETY: it writes one number.
        unsafe { get_version(&raw mut version) };
        let calls = Self {
            version: version.try_into().unwrap_or(0),
            get_unique_id: function(&library, "ncclGetUniqueId")?,
            init: function(&library, "ncclCommInitRankConfig")?,
            async_error: function(&library, "ncclCommGetAsyncError")?,
            abort: function(&library, "ncclCommAbort")?,
            send: function(&library, "ncclSend")?,
            receive: function(&library, "ncclRecv")?,
            error_string: function(&library, "ncclGetErrorString")?,
            last_error: function(&library, "ncclGetLastError")?,
        };
        // Threads of its own run in it from the first id on, so it stays to the end of the process.
        std::mem::forget(library);
        Ok(calls)
    }

    #[allow(unsafe_code, reason = "see below")]
    fn unique_id(&self) -> Result<[u8; 128], NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it writes one id there.
        let code = unsafe { (self.get_unique_id)(&raw mut id) };
        self.check("making an id", code, std::ptr::null_mut())?;
        Ok(id.internal.map(|byte| byte.cast_unsigned()))
    }

    #[allow(unsafe_code, reason = "see below")]
    fn check(
        &self,
        doing: &'static str,
        code: c_int,
        communicator: ncclComm_t,
    ) -> Result<(), NcclError> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: both give texts that live as long as the library; the second takes no communicator, too.
        let (error, last) = unsafe {
            (
                text((self.error_string)(code)),
                text((self.last_error)(communicator)),
            )
        };
        let reason = match last.is_empty() {
            true => error,
            false => format!("{error}: {last}"),
        };
        Err(NcclError::Failed { doing, reason })
    }
}

/// A function of NCCL's; `F` is its type in nccl.h of 2.14 and later.
#[allow(unsafe_code, reason = "see below")]
fn function<F: Copy>(library: &Library, name: &str) -> Result<F, DeviceError> {
    // SAFETY: see above; the library stays.
    let found = unsafe { library.get::<F>(name) };
    found
        .map(|function| *function)
        .map_err(super::failed("looking for a function of NCCL"))
}

/// # Safety
/// It is null, or a text that ends with a zero.
#[allow(unsafe_code, reason = "see above")]
unsafe fn text(from: *const c_char) -> String {
    match from.is_null() {
        true => String::new(),
        // SAFETY: the caller's.
        false => unsafe { CStr::from_ptr(from) }
            .to_string_lossy()
            .trim()
            .to_owned(),
    }
}
