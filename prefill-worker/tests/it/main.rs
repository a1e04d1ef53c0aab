//! A real prefill worker on a socket, and a receiver that keeps everything it gets.

mod queue;
mod receiver;
mod shipped_rows;
mod worker;
