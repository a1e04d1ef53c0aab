//! The `lava` binary: built, and set up to run as a role.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::Places;
use crate::shell;

/// How the binary is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As demo and tests run it: optimised, with checks of overflows and debug assertions in our own crates.
    Dev,
    /// As users run it.
    Release,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }
}

/// The binary of demo and tests.
pub(crate) fn build() -> Result<PathBuf> {
    build_as(Profile::Dev)
}

/// The binary. It is built with the whole workspace, so that features, and with them the built
/// dependencies, are the same for every verb.
pub(crate) fn build_as(profile: Profile) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--locked", "--workspace"]);
    cargo.args(["--bin", "lava", "--profile", profile.name()]);
    shell::run(&mut cargo)?;
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    Ok(shell::target().join(folder).join("lava"))
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
