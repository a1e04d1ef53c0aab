//! Processes that end with us, and where they serve.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{http, shell};

/// Time for a process to become ready; loading the model takes most of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Where a process serves.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) address: SocketAddr,
    /// Metrics and health.
    pub(crate) http: SocketAddr,
}

impl Places {
    pub(crate) fn free() -> Result<Self> {
        let mut addresses = free_addresses(2)?.into_iter();
        Ok(Self::next(&mut addresses))
    }

    /// # Panics
    ///
    /// If fewer than two addresses are left: the caller counted wrong.
    pub(crate) fn next(addresses: &mut impl Iterator<Item = SocketAddr>) -> Self {
        let mut next = || addresses.next().expect("two addresses for each process");
        Self {
            address: next(),
            http: next(),
        }
    }
}

/// Different ports that were free a moment ago: they are held until all of them are found.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let listeners: std::io::Result<Vec<_>> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let listeners = listeners.context("no port is free")?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    Ok(addresses.collect::<std::io::Result<_>>()?)
}

/// One process; it is killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Output goes where the command says; there is no input.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        let program = command.get_program().display();
        Ok(Self {
            name: name.to_owned(),
            child: child.with_context(|| format!("cannot start {program}"))?,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to standard error, if that is a pipe and nobody took it yet.
    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended; none while it lives.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `/readyz`, or what takes its place, says so.
    pub(crate) fn wait_until_ready(&mut self, http: SocketAddr, path: &str) -> Result<()> {
        let began = Instant::now();
        while http::get(http, path).is_none() {
            if let Some(status) = self.ended()? {
                bail!("{} ended ({status})", self.name);
            }
            if began.elapsed() > READY_TIMEOUT {
                bail!("{} is not ready", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, by its name without SIG, to a process that has not ended.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let mut kill = shell::program("kill");
        shell::run(kill.arg(format!("-{signal}")).arg(self.id().to_string()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
