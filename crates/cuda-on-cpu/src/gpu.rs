//! Memory of the pretended GPU, and what is launched on it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::program::Program;
use crate::protocol;

/// Where buffers begin: far from everything that a process has by itself.
const FIRST_ADDRESS: u64 = 1 << 44;
/// Of memory that the system maps.
const ALIGNMENT: u64 = 4096;
/// Between buffers, so that what just misses one is not in the next.
const GAP: u64 = 1 << 20;

/// In which order the threads of a block take turns. A kernel that depends on it lacks a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are numbered; blocks too.
    Forward,
    /// The last first.
    Backward,
    /// Another order in each turn, from a seed.
    Mixed(u32),
}

impl Order {
    fn number(self) -> u32 {
        match self {
            Order::Forward => 0,
            Order::Backward => 1,
            Order::Mixed(seed) => seed.max(2),
        }
    }
}

/// Buffers and launches, in the order in which they were asked for.
#[derive(Debug)]
pub struct Gpu {
    buffers: Vec<Buffer>,
    next_address: u64,
    order: Order,
    script: Vec<u8>,
}

#[derive(Debug)]
struct Buffer {
    address: u64,
    bytes: usize,
}

/// What the machine has against a kernel: the thread, what it did, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl Gpu {
    /// Nothing yet.
    pub fn new(order: Order) -> Self {
        Self {
            buffers: Vec::new(),
            next_address: FIRST_ADDRESS,
            order,
            script: Vec::new(),
        }
    }

    /// A buffer with these bytes; gives its address. Names are for faults.
    pub fn filled(&mut self, name: &str, bytes: &[u8]) -> u64 {
        self.buffer(name, bytes.len(), Some(bytes))
    }

    /// A buffer of so many bytes that nobody has written yet.
    pub fn undefined(&mut self, name: &str, bytes: usize) -> u64 {
        self.buffer(name, bytes, None)
    }

    /// Some bytes of a filled buffer are not: nobody has written them.
    pub fn undefine(&mut self, address: u64, bytes: usize) {
        protocol::undefined(&mut self.script, address, bytes);
    }

    fn buffer(&mut self, name: &str, bytes: usize, filled: Option<&[u8]>) -> u64 {
        let address = self.next_address;
        self.next_address = (address + bytes as u64 + GAP).next_multiple_of(ALIGNMENT);
        protocol::buffer(&mut self.script, name, address, bytes, filled);
        self.buffers.push(Buffer { address, bytes });
        address
    }

    /// Runs a kernel over everything that was set up before. `threads` of each block are in one row.
    pub fn launch(&mut self, kernel: &str, grid: [u32; 3], threads: u32, parameters: &[u8]) {
        protocol::launch(
            &mut self.script,
            kernel,
            grid,
            threads,
            self.order.number(),
            parameters,
        );
    }

    /// Runs all launches.
    ///
    /// # Errors
    /// What a kernel did wrong.
    ///
    /// # Panics
    /// If the program cannot be started, or ends in a way that it should not.
    pub fn run(mut self, program: &Program) -> Result<Memory, Fault> {
        protocol::end(&mut self.script);
        let mut child = Command::new(&program.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was just compiled");
        let mut stdin = child.stdin.take().expect("it is piped");
        let script = self.script;
        // It stops reading at the first fault.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&script)));
        let mut said = Vec::new();
        child
            .stdout
            .take()
            .expect("it is piped")
            .read_to_end(&mut said)
            .expect("a pipe can be read");
        writer.join().expect("writing does not panic");
        let status = child.wait().expect("it was started");
        if let Some(fault) = said.strip_prefix(b"error\n") {
            return Err(Fault(String::from_utf8_lossy(fault).into_owned()));
        }
        if !status.success() {
            return Err(Fault(format!("the program ended with {status}")));
        }
        let mut bytes = said.strip_prefix(b"done\n").expect("it says what it did");
        let mut contents = Vec::new();
        for buffer in self.buffers {
            let (content, rest) = bytes.split_at(buffer.bytes);
            contents.push((buffer.address, content.to_vec()));
            bytes = rest;
        }
        Ok(Memory { contents })
    }
}

/// What the buffers hold afterwards.
#[derive(Debug)]
pub struct Memory {
    contents: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    /// The bytes of the buffer that begins there.
    ///
    /// # Panics
    /// If there is none.
    pub fn bytes(&self, address: u64) -> &[u8] {
        let found = self.contents.iter().find(|(at, _)| *at == address);
        &found.expect("a buffer begins there").1
    }
}
