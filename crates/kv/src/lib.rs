//! The compact cache on the wire: which rows travel, how they lie in frames, and how a receiver knows
//! that it got all of them, unchanged, for the right request. Plain host data; it refuses to know
//! tensors, sockets and clocks. The prefill worker writes with [`Outbound`], the decode worker reads
//! with [`Inbound`], and `crates/transfer` carries the frames between them.
//!
//! A cache has L * Hkv *tables*, one per layer and KV head, table `l * Hkv + h`. A table's rows are in
//! the order in which they travel: the window first, by position, then the others, best first. Frames
//! only ever append to tables, so a receiver needs no staging besides the pages that the rows end in.
//!
//! # The payload of a frame
//!
//! | part | size |
//! |---|---|
//! | finished layers `m` | varint |
//! | of packed formats: mean keys of the layers that no frame before had, head by head | [`RowFormat::mean_bytes`] each |
//! | new rows of each table of layers `0..m` | varint each |
//! | positions of new rows outside the window, table by table | 2 bytes each if N <= 65,536, else 4 |
//! | per table: its new key rows, then its new value rows; first those in the wide form | see below |
//!
//! The rows of one form lie as their codes `[rows, code bytes]` and then their scales `[rows]`. All numbers
//! are little-endian. Varints have seven bits per byte, lowest first, the eighth bit on all but the last, and
//! as few bytes as the number needs. The rows of the window carry no positions: row `i` of a table is position `N - W + i`
//! for `i < W`. Nothing about a row depends on when it is shipped.

#![forbid(unsafe_code)]

mod chain;
mod error;
mod format;
mod frame;
mod header;
mod inbound;
mod outbound;
mod pages;
mod seal;
mod varint;

pub use error::WireError;
pub use format::{RowFormat, UnknownRowFormat};
pub use frame::Frame;
pub use header::{CacheShape, Header, Ticket, WIRE_VERSION};
pub use inbound::{Arrived, Group, Inbound, Mean};
pub use outbound::{Outbound, RowSource};
pub use pages::rows_of_page;
pub use seal::{Receipt, Seal};
