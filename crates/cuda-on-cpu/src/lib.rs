//! Runs the source of CUDA kernels on the CPU and watches every access to memory: for tests, on machines without a
//! GPU. A [`Program`] is a file of kernels, compiled by g++ together with `cpp/machine.cpp`, which says what is
//! watched. A [`Gpu`] holds buffers at addresses that the kernels see, and launches to run. Each run is a process of
//! its own, so that whatever a kernel does stays there. A [`Machine`] is such a process for as long as it is held, for
//! what needs to see what comes of one launch before it asks for the next.
//!
//! It knows nothing of what kernels compute. Tests compare what comes back with the readable form of each kernel, and
//! show that a planted bug is found, by compiling a source with an [`Edit`].

mod gpu;
mod machine;
mod program;
mod protocol;

pub use gpu::{Buffer, Fault, Gpu, Launch, Memory, Order};
pub use machine::{Element, Machine, Product};
pub use program::{CompileError, Edit, Program};
