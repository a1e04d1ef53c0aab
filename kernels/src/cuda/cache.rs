//! Compact caches in device memory. These structs are read by kernels: `kernels/cuda/pages.cuh` has their twins.

use bytemuck::{Pod, Zeroable};

use super::Address;

/// Rows of one (layer, KV head) of a sequence as prefill left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TablePlace {
    /// Where the pages of its wide rows begin in the sequence's list.
    pub wide_page: u32,
    /// Where those of its packed rows begin.
    pub packed_page: u32,
    /// Wide rows that prefill left.
    pub wide_rows: u32,
    /// Packed rows.
    pub packed_rows: u32,
}

/// One sequence of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SequencePlace {
    /// [`TablePlace`] `[L, Hkv]`.
    pub tables: Address,
    /// Numbers of pages in the pool, `u32`, of all tables. Each wide area has room for what will be appended.
    pub pages: Address,
    /// `[L, Hkv, D]` in half precision: what packed keys are relative to. Not looked at if there are none.
    pub mean_keys: Address,
    /// Rows that every table has besides those that prefill left, the one of this step included.
    pub appended: u32,
    /// Zero.
    pub unused: u32,
}

/// The pool that all pages are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PoolPlace {
    /// The first page. Aligned to 16 bytes.
    pub pages: Address,
    /// Bytes of a page, a multiple of 16.
    pub page_bytes: u64,
    /// Wide rows of a page.
    pub wide_page_rows: u32,
    /// Packed rows of a page; any number where there are none.
    pub packed_page_rows: u32,
}
