//! What goes to a program's stdin; `machine.cpp` reads it in the same order.

use crate::gpu::{Buffer, Launch, Order};
use crate::machine::{Element, Product};

/// What is to be done, one thing after the other.
#[derive(Debug, Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    /// A new buffer that nobody has written.
    pub(crate) fn allocate(&mut self, name: &str, address: u64, bytes: usize) {
        self.asked(b'b');
        self.text(name.as_bytes());
        self.numbers([address, bytes as u64]);
    }

    /// A new buffer with what it holds.
    pub(crate) fn buffer(&mut self, buffer: &Buffer) {
        self.allocate(&buffer.name, buffer.address, buffer.bytes.len());
        for part in buffer.defined() {
            self.write(buffer.address + part.start as u64, &buffer.bytes[part]);
        }
    }

    /// The end of a buffer.
    pub(crate) fn free(&mut self, address: u64) {
        self.asked(b'f');
        self.numbers([address]);
    }

    pub(crate) fn launch(&mut self, launch: &Launch, order: Order) {
        self.asked(b'l');
        self.text(launch.kernel.as_bytes());
        let sizes = launch.grid.into_iter();
        let sizes = sizes.chain([launch.threads, 1, 1, order.number()]);
        self.0.extend(sizes.flat_map(u32::to_le_bytes));
        self.text(&launch.parameters);
    }

    pub(crate) fn write(&mut self, to: u64, bytes: &[u8]) {
        self.asked(b'w');
        self.numbers([to]);
        self.text(bytes);
    }

    /// Bytes that come back.
    pub(crate) fn read(&mut self, from: u64, bytes: usize) {
        self.asked(b'r');
        self.numbers([from, bytes as u64]);
    }

    pub(crate) fn fill(&mut self, at: u64, bytes: usize, value: u8) {
        self.asked(b'z');
        self.numbers([at, bytes as u64]);
        self.0.push(value);
    }

    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.asked(b'c');
        self.numbers([to, bytes as u64, from]);
    }

    pub(crate) fn product(&mut self, product: &Product) {
        self.asked(b'p');
        self.0.extend([
            u8::from(product.element == Element::Bf16),
            u8::from(product.is_out_wide),
        ]);
        let sizes = [product.rows, product.inputs, product.outputs];
        self.numbers(sizes.map(|size| size as u64));
        self.numbers([product.x, product.weight, product.out]);
    }

    /// The end: what all buffers hold comes back.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.asked(b'e');
        self.0
    }

    /// What is there so far; nothing is, afterwards.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    fn asked(&mut self, what: u8) {
        self.0.push(what);
    }

    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        self.0
            .extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    }

    /// `u64 length, bytes`.
    fn text(&mut self, bytes: &[u8]) {
        self.numbers([bytes.len() as u64]);
        self.0.extend(bytes);
    }
}
