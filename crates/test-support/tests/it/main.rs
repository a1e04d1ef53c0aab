//! The written files, read back by independent readers.

mod hf;
