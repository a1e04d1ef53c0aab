//! One row of the tensor table.

use crate::GgmlType;

/// Where a tensor lies in the file, and what it is.
///
/// The fields were checked against the file when it was opened, so whoever holds one may trust
/// `bytes` to be the product of `dims` in blocks of `kind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape, outermost first: the file's order reversed.
    pub dims: Vec<usize>,
    /// The element type.
    pub kind: GgmlType,
    /// Where its bytes begin, counted from the start of the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: usize,
}
