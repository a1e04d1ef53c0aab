//! Memory of the pretended GPU, and what is launched on it.

use std::io::{Read, Write};
use std::ops::Range;
use std::process::{Command, Stdio};

use crate::program::Program;
use crate::protocol::Script;

/// Where buffers begin unless told otherwise: far from everything that a process has by itself.
pub(crate) const FIRST_ADDRESS: u64 = 1 << 44;
/// Of memory that the system maps.
pub(crate) const ALIGNMENT: u64 = 4096;
/// Between buffers, so that what just misses one is not in the next.
pub(crate) const GAP: u64 = 1 << 20;

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
    pub(crate) fn number(self) -> u32 {
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
    order: Order,
    next_address: u64,
    buffers: Vec<Buffer>,
    launches: Vec<Launch>,
}

/// Memory that kernels see.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// For faults.
    pub name: String,
    /// Where it begins.
    pub address: u64,
    /// What it holds before the first launch; what nobody has written is 255.
    pub bytes: Vec<u8>,
    /// Parts that nobody has written, each with its first byte and its length.
    pub undefined: Vec<(usize, usize)>,
}

impl Buffer {
    /// Parts that somebody has written.
    pub(crate) fn defined(&self) -> Vec<Range<usize>> {
        let mut undefined = self.undefined.clone();
        undefined.sort_unstable();
        let mut parts = Vec::new();
        let mut at = 0;
        for (first, bytes) in undefined {
            parts.push(at..first.max(at));
            at = at.max(first + bytes);
        }
        parts.push(at..self.bytes.len());
        parts.retain(|part| !part.is_empty());
        parts
    }
}

/// A kernel to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in one row.
    pub threads: u32,
    /// Its parameters.
    pub parameters: Vec<u8>,
}

/// What the machine has against a kernel: the thread, what it did, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl Gpu {
    /// Nothing yet.
    pub fn new(order: Order) -> Self {
        Self::at(FIRST_ADDRESS, order)
    }

    /// The same with buffers from an address on, a multiple of 4,096: for a card that has memory there.
    pub fn at(first_address: u64, order: Order) -> Self {
        Self {
            order,
            next_address: first_address,
            buffers: Vec::new(),
            launches: Vec::new(),
        }
    }

    /// A buffer with these bytes; gives its address. Names are for faults.
    pub fn filled(&mut self, name: &str, bytes: &[u8]) -> u64 {
        self.buffer(name, bytes.to_vec(), Vec::new())
    }

    /// A buffer of so many bytes that nobody has written yet.
    pub fn undefined(&mut self, name: &str, bytes: usize) -> u64 {
        let undefined = if bytes > 0 {
            vec![(0, bytes)]
        } else {
            Vec::new()
        };
        self.buffer(name, vec![255; bytes], undefined)
    }

    /// Some bytes of a buffer that nobody has written.
    ///
    /// # Panics
    /// If they are not in one buffer.
    pub fn undefine(&mut self, address: u64, bytes: usize) {
        let holds = |buffer: &&mut Buffer| {
            (buffer.address..buffer.address + buffer.bytes.len() as u64).contains(&address)
        };
        let buffer = self.buffers.iter_mut().find(holds);
        let buffer = buffer.expect("the bytes are in a buffer");
        let first = (address - buffer.address) as usize;
        buffer.bytes[first..first + bytes].fill(255);
        buffer.undefined.push((first, bytes));
    }

    fn buffer(&mut self, name: &str, bytes: Vec<u8>, undefined: Vec<(usize, usize)>) -> u64 {
        let address = self.next_address;
        self.next_address = (address + bytes.len() as u64 + GAP).next_multiple_of(ALIGNMENT);
        let name = name.to_owned();
        self.buffers.push(Buffer {
            name,
            address,
            bytes,
            undefined,
        });
        address
    }

    /// Runs a kernel behind those before.
    pub fn launch(&mut self, kernel: &str, grid: [u32; 3], threads: u32, parameters: &[u8]) {
        self.launches.push(Launch {
            kernel: kernel.to_owned(),
            grid,
            threads,
            parameters: parameters.to_vec(),
        });
    }

    /// The buffers, as they are before the first launch.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The launches, in their order.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// Runs all launches.
    ///
    /// # Errors
    /// What a kernel did wrong.
    ///
    /// # Panics
    /// If the program cannot be started, or ends in a way that it should not.
    pub fn run(self, program: &Program) -> Result<Memory, Fault> {
        let mut script = Script::default();
        self.buffers.iter().for_each(|buffer| script.buffer(buffer));
        self.launches
            .iter()
            .for_each(|launch| script.launch(launch, self.order));
        let script = script.end();
        let mut child = Command::new(&program.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was just compiled");
        let mut stdin = child.stdin.take().expect("it is piped");
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
            let (content, rest) = bytes.split_at(buffer.bytes.len());
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
    /// Of buffers by their addresses.
    pub fn new(contents: Vec<(u64, Vec<u8>)>) -> Self {
        Self { contents }
    }

    /// The bytes of the buffer that begins there.
    ///
    /// # Panics
    /// If there is none.
    pub fn bytes(&self, address: u64) -> &[u8] {
        let found = self.contents.iter().find(|(at, _)| *at == address);
        &found.expect("a buffer begins there").1
    }
}
