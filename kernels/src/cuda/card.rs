//! A GPU of NVIDIA's. Its driver and cuBLAS are loaded when it is opened, so a program that may use one starts on
//! machines that have none.

mod libraries;
mod nccl;
mod pinned;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::cublas::{self, CudaBlas};
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::CUgraphInstantiate_flags;
use cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError,
    LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

use super::{Address, Compute, Device, DeviceError, Gpu, Launch, Mark, Product, Recording};
pub use libraries::{LIBRARIES, Library};
pub use nccl::{Nccl, NcclError, NcclPeer};
use pinned::Pinned;

/// What nvcc made of `kernels/cuda`, a file each.
const IMAGES: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Copies of so many bytes and more go through pinned memory.
const STAGED_FROM: usize = 64 << 10;
/// As much of it as each stream has.
const STAGING_BYTES: usize = 8 << 20;

/// A stream of a GPU with our kernels.
pub struct CudaDevice {
    card: Arc<Card>,
    stream: Arc<CudaStream>,
    blas: Mutex<CudaBlas>,
    /// On the way of large copies.
    staging: Mutex<Pinned>,
}

/// Launches that the driver knows as one.
struct Graph(Mutex<CudaGraph>);

// SAFETY: a graph may be used by any thread as long as only one does at a time, which the lock sees to; a thread that
// uses it names the device first (cudarc does so in `launch`).
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Graph {}
// SAFETY: see above.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Sync for Graph {}

/// What all streams of a GPU share.
struct Card {
    name: String,
    modules: Vec<Arc<CudaModule>>,
    /// Those that were launched before.
    functions: Mutex<HashMap<String, CudaFunction>>,
}

impl Card {
    fn open(ordinal: usize) -> Result<(Arc<Self>, Arc<CudaContext>), DeviceError> {
        libraries::check()?;
        let context = CudaContext::new(ordinal).map_err(failed("opening the device"))?;
        let load = |image: &&[u8]| context.load_module(Ptx::from_binary(image.to_vec()));
        let modules: Result<Vec<_>, _> = IMAGES.iter().map(load).collect();
        keep_freed_memory(&context).map_err(failed("setting up its memory"))?;
        let card = Self {
            name: context.name().map_err(failed("asking for its name"))?,
            modules: modules.map_err(failed("loading our kernels"))?,
            functions: Mutex::default(),
        };
        Ok((Arc::new(card), context))
    }
}

impl CudaDevice {
    /// The device of this number, counted from 0.
    ///
    /// # Errors
    /// A machine without a driver, cuBLAS, or that device; or whose driver cannot run our kernels.
    pub fn open(ordinal: usize) -> Result<Gpu, DeviceError> {
        let (card, context) = Card::open(ordinal)?;
        Ok(Gpu {
            compute: Arc::new(Self::stream(&card, &context)?),
            copies: Arc::new(Self::stream(&card, &context)?),
        })
    }

    /// One queue of the device of this number, for whoever wants [times](CudaDevice::timed).
    ///
    /// # Errors
    /// Those of [`open`](CudaDevice::open).
    pub fn open_queue(ordinal: usize) -> Result<Self, DeviceError> {
        let (card, context) = Card::open(ordinal)?;
        Self::stream(&card, &context)
    }

    /// How long the device takes for what `work` asks this queue for. Waits until it is done.
    ///
    /// # Errors
    /// Those of `work`, or the device's.
    pub fn timed(
        &self,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Duration, DeviceError> {
        let event = || self.stream.context().new_event(Some(CU_EVENT_DEFAULT));
        let record = |event: &CudaEvent| event.record(&self.stream).map_err(failed("timing work"));
        // Both are made before, so that nothing but the work is between them.
        let begin = event().map_err(failed("making an event"))?;
        let end = event().map_err(failed("making an event"))?;
        record(&begin)?;
        work()?;
        record(&end)?;
        let milliseconds = begin.elapsed_ms(&end).map_err(failed("timing work"))?;
        Ok(Duration::from_secs_f32(milliseconds / 1e3))
    }

    /// How many there are.
    ///
    /// # Errors
    /// A machine without a driver, or the driver's.
    pub fn count() -> Result<usize, DeviceError> {
        libraries::check()?;
        let count = CudaContext::device_count().map_err(failed("counting devices"))?;
        Ok(count.try_into().unwrap_or(0))
    }

    fn stream(card: &Arc<Card>, context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let blas = CudaBlas::new(Arc::clone(&stream)).map_err(failed("starting cuBLAS"))?;
        Ok(Self {
            card: Arc::clone(card),
            stream,
            blas: blas.into(),
            staging: Pinned::zeros(context, STAGING_BYTES)
                .map_err(failed("taking pinned memory"))?
                .into(),
        })
    }

    /// Any thread may call; the driver wants each to name the device first.
    fn bind(&self) -> Result<(), DeviceError> {
        let context = self.stream.context();
        context.bind_to_thread().map_err(failed("using the device"))
    }

    fn function(&self, name: &str) -> Result<CudaFunction, DeviceError> {
        let functions = self.card.functions.lock();
        let mut functions = functions.unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let mut modules = self.card.modules.iter();
        let found = modules.find_map(|module| module.load_function(name).ok());
        let function = found.ok_or_else(|| DeviceError::NoKernel(name.to_owned()))?;
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaDevice({})", self.card.name)
    }
}

// SAFETY of all calls below: the stream is the device's own and lives as long as it; lengths are those of the slices;
// addresses in device memory are those of live buffers, which is what whoever asks vouches for, as with every device
// pointer. What is freed is freed behind all work on its own stream; whoever uses it on the other has waited for that.
impl Device for CudaDevice {
    fn name(&self) -> String {
        self.card.name.clone()
    }

    fn memory_bytes(&self) -> Result<u64, DeviceError> {
        self.bind()?;
        let (_free, all) = driver::mem_get_info().map_err(failed("asking for its memory"))?;
        Ok(all as u64)
    }

    #[allow(unsafe_code, reason = "see above")]
    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        self.bind()?;
        let address = unsafe { driver::malloc_async(self.stream.cu_stream(), bytes) };
        address.map_err(|error| match error.0 {
            CUDA_ERROR_OUT_OF_MEMORY => DeviceError::NoMemory { bytes },
            _ => failed("taking device memory")(error),
        })
    }

    #[allow(unsafe_code, reason = "see above")]
    fn free(&self, address: Address) {
        // A device that cannot free memory is lost; whoever uses it next is told.
        let _ = self.bind();
        let _ = unsafe { driver::free_async(address, self.stream.cu_stream()) };
    }

    #[allow(unsafe_code, reason = "see above")]
    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let copy = |to, bytes: &[u8]| {
            let copied = unsafe { driver::memcpy_htod_async(to, bytes, self.stream.cu_stream()) };
            copied.map_err(failed("copying to the device"))
        };
        if bytes.len() < STAGED_FROM {
            // From memory that is not pinned: the driver has its own copy when this returns.
            return copy(to, bytes);
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, part) in bytes.chunks(STAGING_BYTES).enumerate() {
            let staged = &mut staging.bytes()[..part.len()];
            staged.copy_from_slice(part);
            copy(to + (index * STAGING_BYTES) as u64, staged)?;
            self.wait()?;
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "see above")]
    fn read(&self, from: Address, out: &mut [u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let copy = |out: &mut [u8], from| {
            let copied = unsafe { driver::memcpy_dtoh_async(out, from, self.stream.cu_stream()) };
            copied.map_err(failed("copying from the device"))?;
            self.wait()
        };
        if out.len() < STAGED_FROM {
            return copy(out, from);
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, part) in out.chunks_mut(STAGING_BYTES).enumerate() {
            let staged = &mut staging.bytes()[..part.len()];
            copy(staged, from + (index * STAGING_BYTES) as u64)?;
            part.copy_from_slice(staged);
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "see above")]
    fn fill(&self, at: Address, bytes: usize, value: u8) -> Result<(), DeviceError> {
        self.bind()?;
        let filled = unsafe { driver::memset_d8_async(at, value, bytes, self.stream.cu_stream()) };
        filled.map_err(failed("filling device memory"))
    }

    #[allow(unsafe_code, reason = "see above")]
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        let copied = unsafe { driver::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        copied.map_err(failed("copying within the device"))
    }

    #[allow(unsafe_code, reason = "see above")]
    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        let function = self.function(&launch.kernel)?;
        let [x, y, z] = launch.grid;
        if x == 0 || y == 0 || z == 0 {
            // Nothing to do, which the driver takes for a mistake.
            return Ok(());
        }
        let shape = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // Words, so that the struct is aligned as the kernel's own is.
        let words: Vec<u64> = launch.parameters.chunks(8).map(word).collect();
        let mut launched = self.stream.launch_builder(&function);
        // The driver copies as many bytes from there as the kernel's one parameter has, which is as many as there are:
        // the tests in tests/it run every launch, and a struct of another size is refused there.
        launched.arg(&words[0]);
        let result = unsafe { launched.launch(shape) };
        result.map(|_| ()).map_err(failed("launching a kernel"))
    }

    #[allow(unsafe_code, reason = "see above")]
    fn multiply(&self, product: &Product) -> Result<(), DeviceError> {
        use cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        use cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
        use cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use cublas::sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};

        let Product {
            rows,
            inputs,
            outputs,
            ..
        } = *product;
        if rows == 0 {
            return Ok(());
        }
        self.bind()?;
        let narrow = match product.compute {
            Compute::F16 => CUDA_R_16F,
            Compute::Bf16 => CUDA_R_16BF,
        };
        let out = match product.is_out_wide {
            true => CUDA_R_32F,
            false => narrow,
        };
        let (one, zero) = (1.0f32, 0.0f32);
        let pointer = |address: Address| address as *mut c_void;
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        // cuBLAS counts along columns, so it sees each of our matrices transposed: outᵀ = w xᵀ.
        let multiplied = unsafe {
            cublas::result::gemm_ex(
                *blas.handle(),
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                outputs as i32,
                rows as i32,
                inputs as i32,
                (&raw const one).cast(),
                pointer(product.weight),
                narrow,
                inputs as i32,
                pointer(product.x),
                narrow,
                inputs as i32,
                (&raw const zero).cast(),
                pointer(product.out),
                out,
                outputs as i32,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DFALT,
            )
        };
        multiplied.map_err(failed("multiplying"))
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        let event = self.stream.record_event(None);
        Ok(Mark(Arc::new(event.map_err(failed("marking a stream"))?)))
    }

    fn wait_for(&self, mark: &Mark) -> Result<(), DeviceError> {
        let event = mark.0.downcast_ref::<CudaEvent>();
        let event = event.expect("marks of one GPU are not given to another kind");
        self.stream
            .wait(event)
            .map_err(failed("waiting for a stream"))
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.stream
            .synchronize()
            .map_err(failed("waiting for the device"))
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        // Other threads may use the other stream meanwhile.
        let begun = self
            .stream
            .begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        begun.map_err(failed("beginning a graph"))
    }

    fn end_recording(&self) -> Result<Recording, DeviceError> {
        let ended = self.stream.end_capture(CUgraphInstantiate_flags(0));
        match ended.map_err(failed("ending a graph"))? {
            Some(graph) => Ok(Recording(Arc::new(Graph(graph.into())))),
            None => Err(DeviceError::Failed {
                doing: "ending a graph",
                reason: "none was begun, or it was broken off".to_owned(),
            }),
        }
    }

    fn replay(&self, recording: &Recording) -> Result<(), DeviceError> {
        let graph = recording.0.downcast_ref::<Graph>();
        let graph = graph.expect("recordings of one GPU are not given to another kind");
        let graph = graph.0.lock().unwrap_or_else(PoisonError::into_inner);
        graph.launch().map_err(failed("launching a graph"))
    }
}

fn failed<E: fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> DeviceError {
    move |error| DeviceError::Failed {
        doing,
        reason: error.to_string(),
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// What is freed is kept for what is taken next: a step takes and frees the same buffers as the one before it.
#[allow(unsafe_code, reason = "cudarc has no safe form of these two")]
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    use cudarc::driver::sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    use cudarc::driver::sys::{cuDeviceGetDefaultMemPool, cuMemPoolSetAttribute};

    let (mut pool, mut most) = (std::ptr::null_mut(), u64::MAX);
    // SAFETY: both pointers are to locals of the types that the driver writes and reads.
    unsafe {
        cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result()?;
        let most = (&raw mut most).cast();
        cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, most).result()
    }
}
