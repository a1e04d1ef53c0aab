//! The cluster that is hit: three nodes of etcd, and two processes of every role. It is made whole again after each row.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disk::Disk;
use super::held::held;
use super::network::{Network, namespace};
use super::row::{Ground, Side, Stage};
use super::stage;
use crate::cluster::command::Signal;
use crate::cluster::etcd::{self, Etcd};
use crate::cluster::guard::Guard;
use crate::cluster::launch::{Launch, Place};
use crate::cluster::log::Log;
use crate::cluster::member::{Kind, Member, State};
use crate::cluster::metrics::value;
use crate::cluster::scrape::Targets;
use crate::http;
use crate::process::{Places, free_addresses};

const NAMES: [(&str, Kind); 9] = [
    ("etcd-1", Kind::Etcd),
    ("etcd-2", Kind::Etcd),
    ("etcd-3", Kind::Etcd),
    ("prefill-1", Kind::Prefill),
    ("prefill-2", Kind::Prefill),
    ("decode-1", Kind::Decode),
    ("decode-2", Kind::Decode),
    ("coordinator-1", Kind::Coordinator),
    ("coordinator-2", Kind::Coordinator),
];
const NODES: usize = 3;
const SIGKILL: i32 = 9;
/// Workers of each role.
const WORKERS: f64 = 2.0;

/// Time for all processes to see each other.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a request to come to the stage that is waited for.
const STAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at the stage. A look takes a millisecond or two, and stages some hundred.
const STAGE_INTERVAL: Duration = Duration::from_millis(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What all clusters are made of.
pub(super) struct Setup {
    pub(super) lava: PathBuf,
    pub(super) etcd: PathBuf,
    /// More arguments of workers.
    pub(super) workers: Vec<String>,
    pub(super) folder: PathBuf,
}

pub(super) struct Cluster {
    members: Vec<Member>,
    launch: Launch,
    /// After the processes in it.
    network: Option<Network>,
    disk: Option<Disk>,
}

impl Cluster {
    /// Starts everything and waits until it is whole.
    pub(super) fn start(setup: &Setup, ground: Ground) -> Result<Self> {
        let folder = setup.folder.join(match ground {
            Ground::Loopback => "loopback",
            Ground::Namespaces => "namespaces",
            Ground::SmallDisk => "small-disk",
        });
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let log = Log::create(&folder.join("cluster.log"), 13, false)?;
        // Faults are what is wanted.
        log.hush();
        etcd::remove_old(&folder)?;
        let names = NAMES.map(|(name, _)| name);
        let network = match ground {
            Ground::Namespaces => Some(Network::new(&names)?),
            _ => None,
        };
        let disk = match ground {
            Ground::SmallDisk => Some(Disk::new(&folder.join("disk"))?),
            _ => None,
        };
        let mut places = places(network.as_ref())?;
        let of_nodes = places.drain(..NODES);
        let mut of_nodes = of_nodes.flat_map(|places| [places.address, places.http]);
        let mut launch = Launch {
            lava: setup.lava.clone(),
            workers: setup.workers.clone(),
            coordinators: Vec::new(),
            place: match ground {
                Ground::Namespaces => Place::Namespaces(namespace),
                _ => Place::Here,
            },
            log_file: disk.as_ref().map(|disk| disk.file("all.log")),
            etcd: Etcd::new(setup.etcd.clone(), &folder, NODES, &mut of_nodes),
            targets: Targets::default(),
            guard: Guard::new()?,
            log,
        };
        drop(of_nodes);
        if disk.is_some() {
            // So that there is something to write.
            let level = "telemetry.level=\"debug,h2=info,hyper=info,tower=info\"".to_owned();
            let more = ["--set".to_owned(), level];
            launch.workers.extend(more.clone());
            launch.coordinators.extend(more);
        }
        let nodes = launch.etcd.nodes().iter();
        let nodes = nodes.map(|node| Places {
            address: node.clients,
            http: node.clients,
        });
        let all: Vec<Places> = nodes.chain(places).collect();
        let mut cluster = Self {
            members: Vec::new(),
            launch,
            network,
            disk,
        };
        for ((name, kind), places) in NAMES.into_iter().zip(all) {
            let member = Member::start(name.to_owned(), kind, places, &mut cluster.launch)?;
            cluster.members.push(member);
        }
        for member in &mut cluster.members {
            member.wait_until_ready()?;
        }
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.launch.guard
    }

    pub(super) fn network(&self) -> Result<&Network> {
        self.network
            .as_ref()
            .context("this cluster has no network of its own")
    }

    pub(super) fn disk(&self) -> Result<&Disk> {
        self.disk
            .as_ref()
            .context("this cluster has no disk of its own")
    }

    pub(super) fn coordinators(&self) -> Vec<SocketAddr> {
        let coordinators = self.of_kind(Kind::Coordinator);
        coordinators.map(|member| member.places.address).collect()
    }

    /// Names of processes.
    pub(super) fn side(&self, side: Side, hit: &[String]) -> Vec<String> {
        match side {
            Side::All(kind) => self
                .of_kind(kind)
                .map(|member| member.name.clone())
                .collect(),
            Side::Hit(kind) => {
                let of_kind = |name: &&String| self.of_kind(kind).any(|m| m.name == **name);
                hit.iter().filter(of_kind).cloned().collect()
            }
        }
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(move |member| member.kind == kind)
    }

    /// Waits until one process of every kind is at the stage, all at one moment; returns their names.
    pub(super) fn until_at(&self, stage: Stage) -> Result<Vec<String>> {
        let began = Instant::now();
        loop {
            let at = [Kind::Prefill, Kind::Decode, Kind::Coordinator].map(|kind| {
                let mut of_kind = self.of_kind(kind);
                let is_at = |member: &&Member| {
                    let page = http::get(member.places.http, "/metrics");
                    page.is_some_and(|page| stage::is_at(kind, stage, &page))
                };
                of_kind.find(is_at).map(|member| member.name.clone())
            });
            let at: Option<Vec<String>> = at.into_iter().collect();
            if let Some(at) = at {
                return Ok(at);
            }
            if began.elapsed() > STAGE_TIMEOUT {
                bail!("no request came to the stage {stage:?} within {STAGE_TIMEOUT:?}");
            }
            std::thread::sleep(STAGE_INTERVAL);
        }
    }

    /// The node that leads etcd.
    pub(super) fn leader(&self) -> Result<String> {
        let leads = |member: &&Member| {
            let page = http::get(member.places.http, "/metrics");
            page.is_some_and(|page| stage::leads(&page))
        };
        let leader = self.of_kind(Kind::Etcd).find(leads);
        let leader = leader.map(|member| member.name.clone());
        leader.context("no node of etcd says that it leads")
    }

    pub(super) fn send(&mut self, signal: Signal, name: &str) -> Result<()> {
        let member = self.members.iter_mut().find(|member| member.name == name);
        member
            .with_context(|| format!("there is no {name}"))?
            .send(signal)
    }

    /// Lets what is stopped go on, starts what was killed, and waits until all see all.
    ///
    /// # Errors
    ///
    /// A process ended by itself, or they do not see each other.
    pub(super) fn heal(&mut self) -> Result<()> {
        for member in &mut self.members {
            match member.state()? {
                State::Stopped => member.send(Signal::Cont)?,
                State::Dead(status) if status.signal() == Some(SIGKILL) => {
                    member.restart(&mut self.launch)?;
                }
                State::Dead(status) => bail!("{} ended by itself ({status})", member.name),
                State::Ready | State::Running => {}
            }
        }
        self.wait_until_whole()
    }

    fn wait_until_whole(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let Some(missing) = self.missing()? else {
                return Ok(());
            };
            if began.elapsed() > WHOLE_TIMEOUT {
                bail!("the cluster is not whole after {WHOLE_TIMEOUT:?}: {missing}");
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// What it is not whole for.
    fn missing(&mut self) -> Result<Option<String>> {
        for member in &mut self.members {
            match member.state()? {
                State::Ready => {}
                State::Dead(status) => bail!("{} ended by itself ({status})", member.name),
                State::Running | State::Stopped => {
                    return Ok(Some(format!("{} is not ready", member.name)));
                }
            }
            if member.kind != Kind::Coordinator {
                continue;
            }
            let page = http::get(member.places.http, "/metrics").unwrap_or_default();
            for role in ["prefill", "decode"] {
                let series = format!("lava_coordinator_workers_ready{{role=\"{role}\"}}");
                let ready = value(&page, &series).unwrap_or(0.0);
                if ready != WORKERS {
                    let name = &member.name;
                    return Ok(Some(format!(
                        "{name} has {ready} {role} workers that are ready"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Waits until nobody holds anything, or for too long; returns what is still held, and how long it took.
    pub(super) fn until_free(&self, patience: Duration) -> Result<(Vec<String>, Duration)> {
        let began = Instant::now();
        loop {
            let held = self.held()?;
            if held.is_empty() || began.elapsed() > patience {
                return Ok((held, began.elapsed()));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn held(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for Member {
            name, kind, places, ..
        } in &self.members
        {
            if *kind == Kind::Etcd {
                continue;
            }
            let page = http::get(places.http, "/metrics");
            let page = page.with_context(|| format!("{name} does not answer"))?;
            let held = held(*kind, &page).with_context(|| name.clone())?;
            all.extend(held.into_iter().map(|held| format!("{name}: {held}")));
        }
        Ok(all)
    }
}

/// Of all processes, in the order of their names. Those of etcd's nodes are for clients and for each other.
fn places(network: Option<&Network>) -> Result<Vec<Places>> {
    let Some(network) = network else {
        let mut addresses = free_addresses(2 * NAMES.len())?.into_iter();
        return Ok(NAMES.map(|_| Places::next(&mut addresses)).to_vec());
    };
    let place = |(name, kind)| match kind {
        Kind::Etcd => network.places(name, [2379, 2380]),
        Kind::Prefill | Kind::Decode | Kind::Coordinator => network.places(name, [7070, 9070]),
    };
    NAMES.into_iter().map(place).collect()
}

/// The profile of simulated workers: a request that is alone takes 0.3 s for its prompt, about 0.3 s for its cache and 3 s
/// for its tokens, so that every stage can be hit.
pub(super) fn profile(text: &Path) -> String {
    format!(
        "[model]\ntext = {:?}\n[prefill]\nprompt_ms = 300.0\n[transfer]\nbytes_per_second = 3e5\nrow_bytes_max = 1048576\n[decode]\nstep_ms = 20.0\n",
        text.display().to_string()
    )
}
