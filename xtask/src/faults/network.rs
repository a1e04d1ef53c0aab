//! Network namespaces, one for each process, on a bridge: links between them can be cut in one direction, and made slow.
//!
//! Where packets go is told by a neighbour's entry: one with a hardware address that nobody has loses them silently, as a broken
//! network does, and only from this namespace to that address. It takes no packet filter.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

use crate::cluster::guard::Guard;
use crate::process::Places;
use crate::shell;

const BRIDGE: &str = "lavafaults";
/// What names of namespaces begin with.
const PREFIX: &str = "lava-faults-";
/// What our ends of the links are called; names of interfaces are short.
const LINK: &str = "lavaf";
/// Of a block for tests of networks, which nobody routes.
const NET: [u8; 3] = [198, 18, 77];
/// Nobody has it.
const NOBODY: &str = "02:00:00:00:00:ff";
const FIRST_HOST: u8 = 10;
/// What a slow link carries: a cache takes a second.
const SLOW: &str = "1mbit";

/// All namespaces, each with one address. They are removed when it is dropped, or when xtask ends in whatever way.
pub(super) struct Network {
    names: Vec<String>,
    _guard: Guard,
}

/// Of the process with this name.
pub(super) fn namespace(process: &str) -> String {
    format!("{PREFIX}{process}")
}

/// The shell's commands that remove everything, whoever left it. Links go first: those that go with their namespace do so
/// later, and their names would not be free yet.
fn remove() -> String {
    format!(
        "for link in $(ip -o link show | sed -n 's/^[0-9]*: \\({LINK}[0-9]*\\)@.*/\\1/p'); do ip link del $link; done; \
         for ns in $(ip netns list | sed -n 's/^\\({PREFIX}[^ ]*\\).*/\\1/p'); do ip netns del $ns; done; \
         ip link del {BRIDGE} 2>/dev/null; true"
    )
}

impl Network {
    /// A namespace for each of these processes; what an earlier run left is removed first.
    ///
    /// # Errors
    ///
    /// We may not, or the kernel cannot.
    pub(super) fn new(names: &[&str]) -> Result<Self> {
        Self::make(names).context(
            "network namespaces could not be set up. This needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN), `ip` and `tc` (on \
             Debian: apt install iproute2), and a kernel with namespaces, veth and bridges",
        )
    }

    fn make(names: &[&str]) -> Result<Self> {
        shell::run(shell::program("sh").args(["-c", &remove()]))?;
        let network = Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            // From here on everything is removed at the end.
            _guard: Guard::then(&remove())?,
        };
        let host = |last| IpAddr::from([NET[0], NET[1], NET[2], last]);
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", host(1)), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for (index, name) in names.iter().enumerate() {
            let (space, link) = (namespace(name), format!("{LINK}{index}"));
            ip(&["netns", "add", &space])?;
            ip(&[
                "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip(&["link", "set", &link, "master", BRIDGE, "up"])?;
            let address = format!("{}/24", network.address(name)?);
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    fn address(&self, process: &str) -> Result<IpAddr> {
        let index = self.names.iter().position(|name| name == process);
        let index = index.with_context(|| format!("{process} has no namespace"))?;
        let index = u8::try_from(index).context("too many namespaces")?;
        Ok(IpAddr::from([NET[0], NET[1], NET[2], FIRST_HOST + index]))
    }

    /// Where a process serves, at these ports of its own address.
    pub(super) fn places(&self, process: &str, ports: [u16; 2]) -> Result<Places> {
        let address = self.address(process)?;
        let [address, http] = ports.map(|port| SocketAddr::new(address, port));
        Ok(Places { address, http })
    }

    /// Packets from one process to another are lost from now on.
    pub(super) fn cut(&self, from: &str, to: &str) -> Result<()> {
        let to = self.address(to)?.to_string();
        let entry = [
            "neigh",
            "replace",
            &to,
            "lladdr",
            NOBODY,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ];
        ip(&[&["-n", &namespace(from)], &entry[..]].concat())
    }

    /// They arrive again.
    pub(super) fn join(&self, from: &str, to: &str) -> Result<()> {
        let to = self.address(to)?.to_string();
        ip(&["-n", &namespace(from), "neigh", "del", &to, "dev", "eth0"])
    }

    /// What a process sends is slow from now on.
    pub(super) fn slow(&self, process: &str) -> Result<()> {
        let shape = ["root", "tbf", "rate", SLOW, "burst", "4kb", "latency", "5s"];
        tc(&[
            &["-n", &namespace(process), "qdisc", "add", "dev", "eth0"],
            &shape[..],
        ]
        .concat())
    }

    /// It is as fast as it was.
    pub(super) fn hasten(&self, process: &str) -> Result<()> {
        tc(&[
            "-n",
            &namespace(process),
            "qdisc",
            "del",
            "dev",
            "eth0",
            "root",
        ])
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    quietly("ip", arguments)
}

fn tc(arguments: &[&str]) -> Result<()> {
    quietly("tc", arguments)
}

/// What it says belongs to the error.
fn quietly(program: &str, arguments: &[&str]) -> Result<()> {
    let printed = shell::output(shell::program(program).args(arguments))?;
    match printed.trim() {
        "" => Ok(()),
        words => bail!("{program} {} said: {words}", arguments.join(" ")),
    }
}
