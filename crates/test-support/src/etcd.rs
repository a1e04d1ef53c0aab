//! A real etcd: nodes on free ports of loopback, whose processes are killed, frozen and started again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::ports::free_ports;

/// Time for a node to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Lines of each node's log that a failed test shows.
const LOG_LINES: usize = 30;

/// The nodes; their processes end with it.
pub struct Etcd {
    nodes: Vec<Node>,
    /// Arguments of every node besides its own addresses.
    arguments: Vec<String>,
    scheme: &'static str,
    folder: TempDir,
}

struct Node {
    process: Option<Child>,
    client_port: u16,
    peer_port: u16,
    /// Plain HTTP, whatever the clients' port speaks.
    probe_port: u16,
}

impl Etcd {
    /// Nodes that are ready.
    pub async fn start(nodes: usize) -> Etcd {
        let mut etcd = Etcd::stopped(nodes);
        for node in 0..nodes {
            etcd.spawn(node);
        }
        for node in 0..nodes {
            etcd.until_ready(node).await;
        }
        etcd
    }

    /// Nodes that are yet to be started.
    pub fn stopped(nodes: usize) -> Etcd {
        // All at once, so that no two are the same.
        let mut ports = free_ports(nodes * 3).into_iter();
        let mut port = || ports.next().expect("three for each node");
        let node = |_| Node {
            process: None,
            client_port: port(),
            peer_port: port(),
            probe_port: port(),
        };
        Etcd {
            nodes: (0..nodes).map(node).collect(),
            arguments: Vec::new(),
            scheme: "http",
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Clients have to come with TLS and a certificate of this authority.
    pub fn with_tls(mut self, ca_file: &Path, cert_file: &Path, key_file: &Path) -> Etcd {
        self.scheme = "https";
        self.arguments = vec![
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", ca_file.display()),
            format!("--cert-file={}", cert_file.display()),
            format!("--key-file={}", key_file.display()),
        ];
        self
    }

    /// The URLs of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        let url = |node| format!("{}://{}", self.scheme, self.address(node));
        (0..self.nodes.len()).map(url).collect()
    }

    /// host:port for clients.
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].client_port)
    }

    /// Starts a node with the data that it has.
    pub async fn restart(&mut self, node: usize) {
        self.spawn(node);
        self.until_ready(node).await;
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The node's sockets stay open, and nothing answers.
    pub fn freeze(&self, node: usize) {
        self.signal(node, "STOP");
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, node: usize) {
        self.signal(node, "CONT");
    }

    /// Removes the data of a node that is down.
    pub fn wipe(&self, node: usize) {
        assert!(self.nodes[node].process.is_none(), "the node is down");
        fs::remove_dir_all(self.data(node)).unwrap();
    }

    fn signal(&self, node: usize, signal: &str) {
        let process = self.nodes[node].process.as_ref().expect("the node runs");
        let command = format!("kill -{signal} {}", process.id());
        let status = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command}: {status}");
    }

    fn spawn(&mut self, node: usize) {
        let http = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> = (0..)
            .zip(&self.nodes)
            .map(|(node, Node { peer_port, .. })| format!("n{node}={}", http(*peer_port)))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(node))
            .unwrap();
        let Node {
            client_port,
            peer_port,
            probe_port,
            ..
        } = self.nodes[node];
        let clients = format!("{}://127.0.0.1:{client_port}", self.scheme);
        let process = Command::new(program())
            .args(["--name", &format!("n{node}")])
            .arg("--data-dir")
            .arg(self.data(node))
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &http(peer_port)])
            .args(["--initial-advertise-peer-urls", &http(peer_port)])
            .args(["--listen-metrics-urls", &http(probe_port)])
            .args(["--initial-cluster", &peers.join(",")])
            // Half of the usual times, and no waiting for a disk or for a password's hash.
            .args(["--heartbeat-interval=50", "--election-timeout=500"])
            .args(["--unsafe-no-fsync", "--bcrypt-cost=4"])
            .args(["--logger=zap", "--log-outputs=stderr", "--log-level=warn"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = self.nodes[node].process.replace(process);
        assert!(before.is_none(), "the node was down");
    }

    async fn until_ready(&mut self, node: usize) {
        let ready = async {
            while !is_ready(self.nodes[node].probe_port) {
                let process = self.nodes[node].process.as_mut().expect("the node runs");
                if let Some(status) = process.try_wait().unwrap() {
                    panic!("etcd ended at once: {status}");
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let ready = timeout(READY_TIMEOUT, ready).await;
        ready.unwrap_or_else(|_| panic!("node {node} of etcd is not ready in time"));
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{node}"))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{node}.log"))
    }
}

impl Drop for Etcd {
    #[expect(
        clippy::print_stderr,
        reason = "what etcd says is half of a failed test"
    )]
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].process.is_some() {
                self.kill(node);
            }
            if std::thread::panicking() {
                let log = fs::read_to_string(self.log(node)).unwrap_or_default();
                // Until it is ready, etcd complains of our own probes.
                let lines = log.lines().filter(|line| !line.contains("/health"));
                let lines: Vec<&str> = lines.collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("-- etcd, node {node}:\n{}", last.join("\n"));
            }
        }
    }
}

fn program() -> PathBuf {
    let Some(tools) = std::env::var_os("LAVA_TOOLS") else {
        panic!("LAVA_TOOLS is not set: run `cargo xtask test`");
    };
    Path::new(&tools).join("bin/etcd")
}

/// Whether the node answers, which it does once there is a leader.
fn is_ready(probe_port: u16) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", probe_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    answer().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}
