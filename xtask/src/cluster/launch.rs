//! How the processes of a cluster are started: with which settings, where, and what every start takes care of.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::etcd::Etcd;
use super::guard::Guard;
use super::log::Log;
use super::member::Kind;
use super::scrape::Targets;
use crate::binary;
use crate::process::{Places, Process};

pub(crate) struct Launch {
    pub(crate) lava: PathBuf,
    /// More arguments of workers, and of coordinators.
    pub(crate) workers: Vec<String>,
    pub(crate) coordinators: Vec<String>,
    pub(crate) place: Place,
    /// Where processes of the binary log to instead of `log`.
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) etcd: Etcd,
    pub(crate) targets: Targets,
    /// Before the log, which waits for the last words of all that the guard ends.
    pub(crate) guard: Guard,
    pub(crate) log: Log,
}

/// Where processes run.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// On loopback. Workers that start again come back at other ports, as they would on another machine.
    Here,
    /// Each in a network namespace, whose name follows from its own. Addresses belong to namespaces, and stay.
    Namespaces(fn(&str) -> String),
}

impl Launch {
    /// Starts a process that is logged, scraped and ends with us.
    pub(crate) fn start(&mut self, name: &str, kind: Kind, places: Places) -> Result<Process> {
        let endpoints = [self.etcd.endpoints()];
        let role = |role, more: &[String]| {
            let mut command = binary::role(&self.lava, role, places, &endpoints);
            command.args(more);
            command
        };
        let command = match kind {
            Kind::Etcd => self.etcd.command(name),
            Kind::Prefill => role("prefill", &self.workers),
            Kind::Decode => role("decode", &self.workers),
            Kind::Coordinator => role("coordinator", &self.coordinators),
        };
        let mut command = match self.place {
            Place::Here => command,
            Place::Namespaces(of) => inside(&of(name), &command),
        };
        self.guard.adopt(&mut command);
        let file = self.log_file.as_ref().filter(|_| kind != Kind::Etcd);
        command.stderr(match file {
            None => Stdio::piped(),
            Some(path) => {
                let file = std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(path);
                let file = file.with_context(|| format!("cannot write {}", path.display()))?;
                Stdio::from(file)
            }
        });
        let mut process = Process::start(name, &mut command)?;
        if let Some(stderr) = process.stderr() {
            self.log.follow(name, stderr);
        }
        self.targets.set(name, places.http);
        Ok(process)
    }
}

/// The same command in a network namespace, in which `ip` becomes the program itself.
fn inside(namespace: &str, command: &Command) -> Command {
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", namespace]);
    ip.arg(command.get_program()).args(command.get_args());
    ip.stdout(Stdio::null());
    ip
}
