//! Finding a model's files and choosing its pages.

use std::io::IsTerminal;

use anyhow::Result;
use lava_engine::{Model, ModelFiles, PageShape, RowDtype};

/// Entries of a page: small enough that the unused ends of L * Hkv pages stay few.
const PAGE_ROWS: usize = 16;

pub(crate) fn find(name: &str) -> Result<ModelFiles> {
    Ok(ModelFiles::find(name, std::io::stderr().is_terminal())?)
}

pub(crate) fn page_shape(model: &Model, dtype: RowDtype) -> PageShape {
    PageShape {
        rows: PAGE_ROWS,
        head_dim: model.config().head_dim,
        dtype,
    }
}
