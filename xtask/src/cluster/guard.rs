//! What ends the cluster even if xtask is killed and no destructor runs.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Reads until nobody can write any more, which is when xtask has ended in whatever way, and kills its own process
/// group, itself included. SIGKILL also ends those that were stopped.
const SCRIPT: &str = "while read -r line; do :; done; kill -KILL 0";

/// A shell that leads the process group of the cluster. Keys of the terminal do not reach that group: Ctrl-C ends
/// xtask, and with it the cluster.
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    pub(crate) fn new() -> Result<Self> {
        Self::running(SCRIPT)
    }

    /// One that runs other commands of the shell once xtask has ended.
    pub(crate) fn then(commands: &str) -> Result<Self> {
        Self::running(&format!("while read -r line; do :; done; {commands}"))
    }

    fn running(script: &str) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).process_group(0);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let shell = shell.context("cannot start sh")?;
        Ok(Self { shell })
    }

    /// The process that this command starts ends with us.
    pub(crate) fn adopt(&self, command: &mut Command) {
        // The kernel's process ids fit.
        command.process_group(self.shell.id().cast_signed());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closes its input first.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_runs_once_the_guard_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("done");
        let guard = Guard::then(&format!("touch {}", file.display())).unwrap();
        assert!(!file.exists());
        drop(guard);
        assert!(file.exists());
    }

    #[test]
    fn a_stopped_process_ends_with_the_guard() {
        let guard = Guard::new().unwrap();
        let mut sleep = Command::new("sleep");
        guard.adopt(sleep.arg("600"));
        let mut sleep = sleep.spawn().unwrap();
        let mut stop = Command::new("kill");
        assert!(
            stop.args(["-STOP", &sleep.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        drop(guard);
        assert!(!sleep.wait().unwrap().success());
    }
}
