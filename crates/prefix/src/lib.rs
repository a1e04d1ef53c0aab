//! What a worker says of the prompts that it has kept the front of: a [`BlockName`] for each whole block of
//! tokens, which stands for all that is in front of it too, and a [`Journal`] of those that came and went, so
//! that whoever follows it is told of changes only. It refuses to know what is kept of a block. Workers write
//! journals, and coordinators compare the names with those of a prompt to find where it has least to compute.
//! [`KeptBlocks`] is a cache of nothing but names, for simulated workers and for what an ideal cache would give.

#![forbid(unsafe_code)]

mod journal;
mod kept;
mod name;

pub use journal::{Changes, Journal};
pub use kept::KeptBlocks;
pub use name::BlockName;
