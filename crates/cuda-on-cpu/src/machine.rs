//! The pretended GPU as a thing to talk to: memory comes and goes, and what it holds can be looked at between launches.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::gpu::{ALIGNMENT, FIRST_ADDRESS, Fault, GAP, Launch, Order};
use crate::program::Program;
use crate::protocol::Script;

/// A type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// `out = x wᵀ`, as a library would multiply.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Of `x` and `weight`.
    pub element: Element,
    /// Rows of `x` and `out`.
    pub rows: usize,
    /// Columns of `x` and `weight`.
    pub inputs: usize,
    /// Rows of `weight`, columns of `out`.
    pub outputs: usize,
    /// `[rows, inputs]`.
    pub x: u64,
    /// `[outputs, inputs]`.
    pub weight: u64,
    /// `[rows, outputs]`.
    pub out: u64,
    /// Whether `out` is in f32.
    pub is_out_wide: bool,
}

/// A program that runs and does what it is told. Faults of kernels are told by the next [`read`](Machine::read), as a
/// GPU would.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    order: Order,
    next_address: u64,
    live: BTreeSet<u64>,
    fault: Option<Fault>,
}

impl Machine {
    /// With no memory in use.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(program: &Program, order: Order) -> Self {
        let mut child = Command::new(&program.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was just compiled");
        Self {
            stdin: child.stdin.take().expect("it is piped"),
            stdout: child.stdout.take().expect("it is piped"),
            child,
            order,
            next_address: FIRST_ADDRESS,
            live: BTreeSet::new(),
            fault: None,
        }
    }

    /// Buffers that were not freed.
    pub fn live_buffers(&self) -> usize {
        self.live.len()
    }

    /// Where the next buffer of so many bytes will begin. No two ever have the same address.
    pub fn next_address(&mut self, bytes: usize) -> u64 {
        let address = self.next_address;
        self.next_address = (address + bytes as u64 + GAP).next_multiple_of(ALIGNMENT);
        address
    }

    /// Bytes that nobody has written yet, at an [address](Machine::next_address) that is theirs.
    ///
    /// # Errors
    /// Here and below: what was wrong, with this or with anything before.
    pub fn allocate(&mut self, name: &str, address: u64, bytes: usize) -> Result<(), Fault> {
        self.live.insert(address);
        self.tell(|script| script.allocate(name, address, bytes))
    }

    /// Frees a buffer: whoever uses it afterwards is at fault.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        self.live.remove(&address);
        self.tell(|script| script.free(address))
    }

    /// Bytes from the host.
    pub fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.tell(|script| script.write(to, bytes))
    }

    /// Bytes to the host, which must have been written.
    pub fn read(&mut self, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.tell(|script| script.read(from, out.len()))?;
        let mut kind = [0];
        match self.stdout.read_exact(&mut kind) {
            Ok(()) if kind == *b"r" => {
                let whole = self.stdout.read_exact(out);
                whole.map_err(|error| self.lost(&error.to_string()))
            }
            // The first byte of "error\n".
            Ok(()) => Err(self.told()),
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    /// The same byte everywhere.
    pub fn fill(&mut self, at: u64, bytes: usize, value: u8) -> Result<(), Fault> {
        self.tell(|script| script.fill(at, bytes, value))
    }

    /// Bytes, which must have been written, to another place.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
        self.tell(|script| script.copy(to, from, bytes))
    }

    /// A kernel.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), Fault> {
        let order = self.order;
        self.tell(|script| script.launch(launch, order))
    }

    /// Matrices.
    pub fn multiply(&mut self, product: &Product) -> Result<(), Fault> {
        self.tell(|script| script.product(product))
    }

    fn tell(&mut self, what: impl FnOnce(&mut Script)) -> Result<(), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut script = Script::default();
        what(&mut script);
        let told = self.stdin.write_all(&script.take());
        let told = told.and_then(|()| self.stdin.flush());
        if told.is_err() {
            // It ends at its first fault, and has said which.
            let mut first = [0];
            return Err(match self.stdout.read_exact(&mut first) {
                Ok(()) => self.told(),
                Err(error) => self.lost(&error.to_string()),
            });
        }
        Ok(())
    }

    /// What it says behind the first byte of its error.
    fn told(&mut self) -> Fault {
        let mut said = Vec::new();
        let _ = self.stdout.read_to_end(&mut said);
        let said = said.strip_prefix(b"rror\n").unwrap_or(&said);
        self.keep(Fault(String::from_utf8_lossy(said).into_owned()))
    }

    fn lost(&mut self, reason: &str) -> Fault {
        self.keep(Fault(format!("the program ended: {reason}")))
    }

    fn keep(&mut self, fault: Fault) -> Fault {
        self.fault = Some(fault.clone());
        fault
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
