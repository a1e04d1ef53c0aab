//! A GPU for tests: the project's kernels on the CPU, where every access to memory is watched.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lava_cuda_on_cpu::{Element, Fault, Launch as Watched, Machine, Order, Program};
use lava_kernels::cuda::{
    Address, Compute, Device, DeviceError, Gpu, Launch, Mark, Product, Recording,
};

/// Every file of `kernels/cuda` that has kernels.
const SOURCES: [&str; 8] = [
    "append.cu",
    "copy.cu",
    "decode.cu",
    "gather.cu",
    "layer.cu",
    "prefill.cu",
    "rank.cu",
    "window.cu",
];

/// What is watched costs many times its size.
const MEMORY_BYTES: usize = 256 << 20;

/// A GPU that is a process of this machine. What a kernel does wrong is an error of the next thing that is read, and
/// says what and where; so is memory that nobody wrote, or that was freed.
///
/// The work of a queue is done as late as can be: when something is read from it, or another queue that has to wait for
/// it gets so far. So a queue that should wait and does not finds nothing where it looks.
#[derive(Clone, Debug)]
pub struct WatchedGpu(Arc<Mutex<State>>);

/// One of its queues.
#[derive(Debug)]
struct Queue {
    gpu: WatchedGpu,
    number: usize,
}

struct State {
    machine: Machine,
    queues: [Pending; 2],
    is_broken: bool,
    /// Of all buffers together, and of those that there are.
    bytes_max: usize,
    buffers: HashMap<Address, usize>,
}

#[derive(Default)]
struct Pending {
    done: u64,
    tasks: VecDeque<Task>,
    /// What is written down and not done.
    recorded: Option<Vec<Asked>>,
}

/// Something that is asked of the machine.
type Asked = Arc<dyn Fn(&mut Machine) -> Result<(), Fault> + Send + Sync>;

/// Something to do.
enum Task {
    Do(Asked),
    WaitFor(Point),
}

/// So many tasks of a queue.
#[derive(Clone, Copy)]
struct Point {
    queue: usize,
    tasks: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.machine)
    }
}

impl WatchedGpu {
    /// Threads of kernels take turns in this order.
    ///
    /// # Panics
    /// If the kernels cannot be compiled.
    pub fn start(order: Order) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/cuda");
        let program = Program::compile(&folder, &SOURCES, &[], &cache());
        let program = program.unwrap_or_else(|error| panic!("{error}"));
        let state = State {
            machine: Machine::start(&program, order),
            queues: Default::default(),
            is_broken: false,
            bytes_max: MEMORY_BYTES,
            buffers: HashMap::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Its queues.
    pub fn gpu(&self) -> Gpu {
        let queue = |number| {
            Arc::new(Queue {
                gpu: self.clone(),
                number,
            })
        };
        Gpu {
            compute: queue(0),
            copies: queue(1),
        }
    }

    /// From now on nothing can be read from it, as from a card that has fallen off its bus.
    pub fn break_down(&self) {
        self.state().is_broken = true;
    }

    /// From now on it has so many bytes of memory more, and no others.
    pub fn leave_room_for(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes_max = state.bytes() + bytes;
    }

    /// Buffers that were not freed, when all work is done.
    ///
    /// # Panics
    /// If something went wrong in that work.
    pub fn live_buffers(&self) -> usize {
        let mut state = self.state();
        for queue in 0..state.queues.len() {
            let done = state.finish(queue);
            done.unwrap_or_else(|fault| panic!("{}", fault.0));
        }
        state.machine.live_buffers()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Of all buffers.
    fn bytes(&self) -> usize {
        self.buffers.values().sum()
    }

    /// Does all that was asked of a queue.
    fn finish(&mut self, queue: usize) -> Result<(), Fault> {
        let all = self.queues[queue].end();
        self.advance(queue, all)
    }

    /// Does the first so many tasks of a queue, and what they wait for.
    fn advance(&mut self, queue: usize, tasks: u64) -> Result<(), Fault> {
        if self.is_broken {
            return Err(Fault("it has broken down".to_owned()));
        }
        while self.queues[queue].done < tasks {
            let pending = &mut self.queues[queue];
            pending.done += 1;
            match pending.tasks.pop_front() {
                Some(Task::Do(task)) => task(&mut self.machine)?,
                Some(Task::WaitFor(point)) => self.advance(point.queue, point.tasks)?,
                None => break,
            }
        }
        Ok(())
    }
}

impl Pending {
    /// All tasks that were ever asked for.
    fn end(&self) -> u64 {
        self.done + self.tasks.len() as u64
    }
}

impl Queue {
    fn ask(&self, task: impl Fn(&mut Machine) -> Result<(), Fault> + Send + Sync + 'static) {
        let mut state = self.gpu.state();
        let pending = &mut state.queues[self.number];
        assert!(
            pending.recorded.is_none(),
            "only kernels and products are recorded"
        );
        pending.tasks.push_back(Task::Do(Arc::new(task)));
    }

    /// The same for what may be recorded.
    fn ask_or_record(
        &self,
        task: impl Fn(&mut Machine) -> Result<(), Fault> + Send + Sync + 'static,
    ) {
        let mut state = self.gpu.state();
        let pending = &mut state.queues[self.number];
        match &mut pending.recorded {
            Some(recorded) => recorded.push(Arc::new(task)),
            None => pending.tasks.push_back(Task::Do(Arc::new(task))),
        }
    }
}

/// Where compiled programs are kept: beside the test that runs, where cargo has a folder for what tests make.
fn cache() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a file");
    // target/debug/deps/test
    let target = test.ancestors().nth(3).expect("it is one of cargo's");
    target.join("tmp/cuda-on-cpu")
}

fn failed(doing: &'static str) -> impl FnOnce(Fault) -> DeviceError {
    move |fault| DeviceError::Failed {
        doing,
        reason: fault.0,
    }
}

impl Device for Queue {
    fn name(&self) -> String {
        "this CPU in the place of a GPU".to_owned()
    }

    fn memory_bytes(&self) -> Result<u64, DeviceError> {
        Ok(MEMORY_BYTES as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let mut state = self.gpu.state();
        if state.bytes() + bytes > state.bytes_max {
            return Err(DeviceError::NoMemory { bytes });
        }
        let address = state.machine.next_address(bytes);
        state.buffers.insert(address, bytes);
        drop(state);
        let name = format!("a buffer of {bytes} bytes");
        self.ask(move |gpu| gpu.allocate(&name, address, bytes));
        Ok(address)
    }

    fn free(&self, address: Address) {
        self.gpu.state().buffers.remove(&address);
        self.ask(move |gpu| gpu.free(address));
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        let bytes = bytes.to_vec();
        self.ask(move |gpu| gpu.write(to, &bytes));
        Ok(())
    }

    fn read(&self, from: Address, out: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.gpu.state();
        let done = state.finish(self.number);
        let read = done.and_then(|()| state.machine.read(from, out));
        read.map_err(failed("reading"))
    }

    fn fill(&self, at: Address, bytes: usize, value: u8) -> Result<(), DeviceError> {
        self.ask(move |gpu| gpu.fill(at, bytes, value));
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError> {
        self.ask(move |gpu| gpu.copy(to, from, bytes));
        Ok(())
    }

    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        let launch = Watched {
            kernel: launch.kernel.clone(),
            grid: launch.grid,
            threads: launch.threads,
            parameters: launch.parameters.clone(),
        };
        self.ask_or_record(move |gpu| gpu.launch(&launch));
        Ok(())
    }

    fn multiply(&self, product: &Product) -> Result<(), DeviceError> {
        let product = lava_cuda_on_cpu::Product {
            element: match product.compute {
                Compute::F16 => Element::F16,
                Compute::Bf16 => Element::Bf16,
            },
            rows: product.rows,
            inputs: product.inputs,
            outputs: product.outputs,
            x: product.x,
            weight: product.weight,
            out: product.out,
            is_out_wide: product.is_out_wide,
        };
        self.ask_or_record(move |gpu| gpu.multiply(&product));
        Ok(())
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        let tasks = self.gpu.state().queues[self.number].end();
        let queue = self.number;
        Ok(Mark(Arc::new(Point { queue, tasks })))
    }

    fn wait_for(&self, mark: &Mark) -> Result<(), DeviceError> {
        let point = mark.0.downcast_ref::<Point>();
        let point = *point.expect("marks of one GPU are not given to another kind");
        let mut state = self.gpu.state();
        let pending = &mut state.queues[self.number];
        pending.tasks.push_back(Task::WaitFor(point));
        Ok(())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        let done = self.gpu.state().finish(self.number);
        done.map_err(failed("waiting"))
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        let mut state = self.gpu.state();
        state.queues[self.number].recorded = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<Recording, DeviceError> {
        let mut state = self.gpu.state();
        let recorded = state.queues[self.number].recorded.take();
        let recorded = recorded.expect("a recording was begun");
        Ok(Recording(Arc::new(recorded)))
    }

    fn replay(&self, recording: &Recording) -> Result<(), DeviceError> {
        let recorded = recording.0.downcast_ref::<Vec<Asked>>();
        let recorded = recorded.expect("recordings of one GPU are not given to another kind");
        let mut state = self.gpu.state();
        let tasks = &mut state.queues[self.number].tasks;
        tasks.extend(recorded.iter().cloned().map(Task::Do));
        Ok(())
    }
}
