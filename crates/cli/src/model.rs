//! Finding a model's files.

use std::io::IsTerminal;

use anyhow::Result;
use lava_engine::ModelFiles;

pub(crate) fn find(name: &str) -> Result<ModelFiles> {
    Ok(ModelFiles::find(name, std::io::stderr().is_terminal())?)
}
