//! What came out: quality against bytes, per policy, as a table, as JSON and as one page.
//!
//! [`summarize`] does all arithmetic; the rest only writes. A page is one file without scripts
//! that loads nothing from a network.

mod bars;
mod heat;
mod html;
mod lines;
mod markdown;
mod palette;
mod scale;
mod summary;
mod svg;
mod table;

pub use html::html;
pub use markdown::markdown;
pub use summary::{Cell, Heat, Layers, Line, Summary, summarize};
pub use table::plain;

/// The summary, indented.
pub fn json(summary: &Summary) -> String {
    // Strings, numbers, lists and structs: there is nothing in it that JSON cannot hold.
    serde_json::to_string_pretty(summary).unwrap_or_default()
}
