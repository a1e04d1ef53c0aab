//! One process of the cluster under its name, from its first start over its deaths to its last.

use std::process::ExitStatus;

use anyhow::{Result, bail};

use super::command::Signal;
use super::launch::{Launch, Place};
use crate::http;
use crate::process::{Places, Process};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Etcd,
    Prefill,
    Decode,
    Coordinator,
}

impl Kind {
    /// The page that answers with 200 once the process can do its work.
    fn ready_path(self) -> &'static str {
        match self {
            Self::Etcd => "/health",
            Self::Prefill | Self::Decode | Self::Coordinator => "/readyz",
        }
    }
}

/// What a member does.
pub(crate) enum State {
    Ready,
    /// It lives but is not ready: it starts, drains, or lacks somebody.
    Running,
    Stopped,
    Dead(ExitStatus),
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) places: Places,
    process: Process,
    stopped: bool,
}

impl Member {
    pub(crate) fn start(
        name: String,
        kind: Kind,
        places: Places,
        launch: &mut Launch,
    ) -> Result<Self> {
        Ok(Self {
            process: launch.start(&name, kind, places)?,
            name,
            kind,
            places,
            stopped: false,
        })
    }

    /// Again, after it ended. Workers come back at new ports if they have no address of their own; everybody else is expected
    /// where it was.
    pub(crate) fn restart(&mut self, launch: &mut Launch) -> Result<()> {
        if self.process.ended()?.is_none() {
            bail!("{} still lives; kill or term it first", self.name);
        }
        let is_worker = matches!(self.kind, Kind::Prefill | Kind::Decode);
        if is_worker && matches!(launch.place, Place::Here) {
            self.places = Places::free()?;
        }
        self.process = launch.start(&self.name, self.kind, self.places)?;
        self.stopped = false;
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn state(&mut self) -> Result<State> {
        if let Some(status) = self.process.ended()? {
            return Ok(State::Dead(status));
        }
        if self.stopped {
            return Ok(State::Stopped);
        }
        let ready = http::get(self.places.http, self.kind.ready_path()).is_some();
        Ok(match ready {
            true => State::Ready,
            false => State::Running,
        })
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        let path = self.kind.ready_path();
        self.process.wait_until_ready(self.places.http, path)
    }

    /// # Errors
    ///
    /// It is dead.
    pub(crate) fn send(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.process.ended()? {
            bail!("{} is dead ({status})", self.name);
        }
        match signal {
            // Waits for the end too, so that the next command finds it dead.
            Signal::Kill => self.kill(),
            Signal::Stop | Signal::Cont | Signal::Term => self.process.signal(signal.name())?,
        }
        match signal {
            Signal::Stop => self.stopped = true,
            Signal::Cont => self.stopped = false,
            Signal::Kill | Signal::Term => {}
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}
