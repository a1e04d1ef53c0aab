//! How the processes of the cluster are started: with which settings, and what every start takes care of.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Result;

use super::etcd::Etcd;
use super::guard::Guard;
use super::log::Log;
use super::member::Kind;
use super::scrape::Targets;
use crate::binary;
use crate::process::{Places, Process};

pub(crate) struct Launch {
    pub(crate) lava: PathBuf,
    /// `model.path=...`
    pub(crate) model: String,
    pub(crate) etcd: Etcd,
    pub(crate) targets: Targets,
    /// Before the log, which waits for the last words of all that the guard ends.
    pub(crate) guard: Guard,
    pub(crate) log: Log,
}

impl Launch {
    /// Starts a process that is logged, scraped and ends with us.
    pub(crate) fn start(&mut self, name: &str, kind: Kind, places: Places) -> Result<Process> {
        let endpoints = self.etcd.endpoints();
        let worker = || vec![self.model.clone(), endpoints.clone()];
        let role = |role, settings: &[String]| binary::role(&self.lava, role, places, settings);
        let mut command = match kind {
            Kind::Etcd => self.etcd.command(name),
            Kind::Prefill => role("prefill", &worker()),
            Kind::Decode => role("decode", &worker()),
            Kind::Coordinator => role("coordinator", &[endpoints]),
        };
        self.guard.adopt(&mut command);
        let mut process = Process::start(name, command.stderr(Stdio::piped()))?;
        if let Some(stderr) = process.stderr() {
            self.log.follow(name, stderr);
        }
        self.targets.set(name, places.http);
        Ok(process)
    }
}
