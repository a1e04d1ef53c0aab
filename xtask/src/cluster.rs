//! A cluster on this machine to play with: etcd, workers and coordinators as processes, their logs in one file, their
//! metrics on one port, and a prompt that kills, stops and asks them.

mod ask;
pub(crate) mod command;
pub(crate) mod etcd;
pub(crate) mod guard;
pub(crate) mod launch;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod metrics;
mod prompt;
pub(crate) mod scrape;
mod status;

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use clap::builder::TypedValueParser;

use self::etcd::Etcd;
use self::guard::Guard;
use self::launch::{Launch, Place};
use self::log::Log;
use self::member::{Kind, Member, State};
use self::scrape::Targets;
use crate::process::{Places, free_addresses};
use crate::{binary, models, shell, tools};

/// How many processes there are of each kind.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Nodes of etcd: one, or three, which go on without one of them.
    #[arg(long, default_value = "1", value_parser = nodes())]
    etcd: usize,
    /// Prefill workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    prefill: u8,
    /// Decode workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    decode: u8,
    /// Coordinators.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    coordinators: u8,
    /// Show all lines of the log on the terminal, not only warnings and errors.
    #[arg(long)]
    verbose: bool,
}

/// Any other number of nodes tolerates no more, or is no cluster for one machine.
fn nodes() -> impl TypedValueParser<Value = usize> {
    clap::builder::PossibleValuesParser::new(["1", "3"])
        .map(|count| count.parse().expect("each possible value is a number"))
}

impl Options {
    /// Names and kinds of the processes of the binary, in the order of their start.
    fn roles(&self) -> Vec<(String, Kind)> {
        let counts = [
            ("prefill", Kind::Prefill, self.prefill),
            ("decode", Kind::Decode, self.decode),
            ("coordinator", Kind::Coordinator, self.coordinators),
        ];
        let of_kind =
            |(name, kind, count)| (1..=count).map(move |number| (format!("{name}-{number}"), kind));
        counts.into_iter().flat_map(of_kind).collect()
    }
}

/// Starts the cluster and obeys the prompt. Everything that was started ends with it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut cluster = Cluster::start(options)?;
    let input = std::io::stdin();
    let ended = match input.is_terminal() {
        true => prompt::by_hand(&mut cluster),
        false => prompt::script(&mut cluster, input.lock()),
    };
    cluster.launch.log.hush();
    ended
}

/// All processes. They are killed when it is dropped: the members one by one, and then by the guard whatever is left.
struct Cluster {
    /// etcd first, as in the table of `status`.
    members: Vec<Member>,
    launch: Launch,
}

impl Cluster {
    fn start(options: &Options) -> Result<Self> {
        let etcd = tools::ensure()?.join("bin/etcd");
        let model = binary::model(&models::smollm2()?)?;
        let lava = binary::build()?;

        let folder = shell::target().join("cluster");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join("cluster.log");
        let roles = options.roles();
        let widest = roles.iter().map(|(name, _)| name.len()).max();
        let file = Log::create(&log, widest.unwrap_or(0), options.verbose)?;
        etcd::remove_old(&folder)?;

        let targets = Targets::default();
        let metrics = scrape::serve(targets.clone())?;
        println!("the metrics of all processes are at http://{metrics}/metrics");
        let mut addresses = free_addresses(2 * (options.etcd + roles.len()))?.into_iter();
        let mut cluster = Self {
            members: Vec::new(),
            launch: Launch {
                lava,
                workers: vec!["--set".to_owned(), model],
                coordinators: Vec::new(),
                place: Place::Here,
                log_file: None,
                etcd: Etcd::new(etcd, &folder, options.etcd, &mut addresses),
                targets,
                guard: Guard::new()?,
                log: file,
            },
        };
        let nodes = cluster.launch.etcd.nodes().iter();
        let nodes = nodes.map(|node| {
            // etcd has its metrics where its clients are.
            let (address, http) = (node.clients, node.clients);
            (node.name.clone(), Kind::Etcd, Places { address, http })
        });
        let nodes: Vec<_> = nodes.collect();
        let roles = roles.into_iter();
        let roles = roles.map(|(name, kind)| (name, kind, Places::next(&mut addresses)));
        let in_log = || format!("the log is {}", log.display());
        // Nobody else can register before etcd is there.
        cluster.add(nodes).with_context(in_log)?;
        cluster.add(roles).with_context(in_log)?;
        println!("all are ready; {}; help lists what can be typed", in_log());
        Ok(cluster)
    }

    /// Starts members and waits until all of them are ready.
    fn add(&mut self, new: impl IntoIterator<Item = (String, Kind, Places)>) -> Result<()> {
        for (name, kind, places) in new {
            println!("starting {name}");
            let member = Member::start(name, kind, places, &mut self.launch)?;
            self.members.push(member);
        }
        let mut members = self.members.iter_mut();
        members.try_for_each(Member::wait_until_ready)
    }

    fn member(&mut self, name: &str) -> Result<&mut Member> {
        let index = self.index(name)?;
        Ok(&mut self.members[index])
    }

    fn index(&self, name: &str) -> Result<usize> {
        let index = self.members.iter().position(|member| member.name == name);
        index.with_context(|| {
            let known = self.members.iter().map(|member| member.name.as_str());
            let known = known.collect::<Vec<_>>().join(", ");
            format!("no process is called {name:?}; there are {known}")
        })
    }

    /// Returns where it is now.
    fn restart(&mut self, name: &str) -> Result<SocketAddr> {
        let index = self.index(name)?;
        self.members[index].restart(&mut self.launch)?;
        Ok(self.members[index].places.address)
    }

    /// All nodes lose their data, those that were dead included.
    fn wipe(&mut self) -> Result<()> {
        let nodes = self.members.iter_mut();
        let mut nodes: Vec<_> = nodes.filter(|node| node.kind == Kind::Etcd).collect();
        nodes.iter_mut().for_each(|node| node.kill());
        self.launch.etcd.wipe()?;
        for node in &mut nodes {
            node.restart(&mut self.launch)?;
        }
        // A node is ready when a leader was elected, so all of them have to run first.
        nodes
            .iter_mut()
            .try_for_each(|node| node.wait_until_ready())
    }

    /// At least one.
    fn ready_coordinators(&mut self) -> Result<Vec<SocketAddr>> {
        let mut ready = Vec::new();
        for member in &mut self.members {
            if member.kind == Kind::Coordinator && matches!(member.state()?, State::Ready) {
                ready.push(member.places.address);
            }
        }
        if ready.is_empty() {
            bail!("no coordinator is ready");
        }
        Ok(ready)
    }
}
