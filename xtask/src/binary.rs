//! The `lava` binary: built, and set up to run as a role.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::Places;
use crate::shell;

/// The binary. It is built with the whole workspace, so that features, and with them the built
/// dependencies, are the same for every verb.
pub(crate) fn build() -> Result<PathBuf> {
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--bin",
        "lava",
    ]))?;
    Ok(shell::target().join("debug/lava"))
}

/// The command of a role that serves at `places`; `settings` are `key=value`.
pub(crate) fn role(lava: &Path, role: &str, places: Places, settings: &[String]) -> Command {
    let mut command = Command::new(lava);
    command.arg(role).stdout(Stdio::null());
    let own = [
        format!("listen.address=\"{}\"", places.address),
        format!("http.listen=\"{}\"", places.http),
    ];
    for setting in own.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

/// The setting of a worker's model.
pub(crate) fn model(path: &Path) -> Result<String> {
    let path = std::path::absolute(path)?;
    Ok(format!("model.path={:?}", path.display().to_string()))
}
