//! The nodes of etcd: where they are, how they are started, and their data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// All nodes. Addresses stay the same as long as the cluster runs, since everybody was told them.
pub(crate) struct Etcd {
    program: PathBuf,
    /// Holds a folder for each node.
    folder: PathBuf,
    nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) clients: SocketAddr,
    peers: SocketAddr,
}

impl Etcd {
    /// Takes two addresses for each of the `count` nodes.
    ///
    /// # Panics
    ///
    /// If there are fewer addresses: the caller counted wrong.
    pub(crate) fn new(
        program: PathBuf,
        folder: &Path,
        count: usize,
        addresses: &mut impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let mut next = || addresses.next().expect("two addresses for each node");
        let nodes = (1..=count).map(|number| Node {
            name: format!("etcd-{number}"),
            clients: next(),
            peers: next(),
        });
        Self {
            program,
            folder: folder.to_owned(),
            nodes: nodes.collect(),
        }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The setting that tells the binary where etcd is.
    pub(crate) fn endpoints(&self) -> String {
        let urls = self.nodes.iter().map(|node| url(node.clients));
        format!("etcd.endpoints={:?}", urls.collect::<Vec<_>>())
    }

    /// The command of one node. A node that finds its data goes on with it.
    ///
    /// # Panics
    ///
    /// If there is no node of that name: the caller made it up.
    pub(crate) fn command(&self, name: &str) -> Command {
        let node = self.nodes.iter().find(|node| node.name == name);
        let node = node.expect("only names of nodes are asked for");
        let (clients, peers) = (url(node.clients), url(node.peers));
        let all = self.nodes.iter();
        let all = all.map(|node| format!("{}={}", node.name, url(node.peers)));
        let mut command = Command::new(&self.program);
        command.args(["--name", name, "--data-dir"]);
        command.arg(self.data(name)).stdout(Stdio::null());
        command.args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &all.collect::<Vec<_>>().join(",")]);
        command
    }

    /// Removes what all nodes know. None of them may run.
    pub(crate) fn wipe(&self) -> Result<()> {
        for node in &self.nodes {
            remove(&self.data(&node.name))?;
        }
        Ok(())
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Removes the data of earlier clusters, which may have had more nodes.
pub(crate) fn remove_old(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("etcd-") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(folder: &Path) -> Etcd {
        let mut addresses = (1..=6).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Etcd::new("etcd".into(), folder, 3, &mut addresses)
    }

    #[test]
    fn the_binary_hears_of_clients_urls_and_the_nodes_of_each_others() {
        let etcd = three(Path::new("data"));
        assert_eq!(
            etcd.endpoints(),
            r#"etcd.endpoints=["http://127.0.0.1:1", "http://127.0.0.1:3", "http://127.0.0.1:5"]"#
        );
        let command = etcd.command("etcd-2");
        let arguments: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        assert_eq!(
            arguments.join(" "),
            "--name etcd-2 --data-dir data/etcd-2 --listen-client-urls http://127.0.0.1:3 \
             --advertise-client-urls http://127.0.0.1:3 --listen-peer-urls http://127.0.0.1:4 \
             --initial-advertise-peer-urls http://127.0.0.1:4 --initial-cluster \
             etcd-1=http://127.0.0.1:2,etcd-2=http://127.0.0.1:4,etcd-3=http://127.0.0.1:6"
        );
    }

    #[test]
    fn only_data_of_etcd_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etcd-1", "etcd-9", "other"] {
            std::fs::create_dir_all(folder.path().join(name).join("member")).unwrap();
        }
        three(folder.path()).wipe().unwrap();
        assert!(!folder.path().join("etcd-1").exists());
        assert!(folder.path().join("etcd-9").exists());
        remove_old(folder.path()).unwrap();
        assert!(!folder.path().join("etcd-9").exists());
        assert!(folder.path().join("other").exists());
    }
}
