//! Processes of the binary for one test: all roles in one, or each on its own. They end with the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lava_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;

/// Time for a process to become ready: loading takes most of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for everything that a request held to be given back.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Gauges that are 0 when nothing is held.
pub(crate) const HELD: [&str; 12] = [
    "lava_coordinator_flights",
    "lava_coordinator_flights_stuck",
    "lava_prefill_queue",
    "lava_prefill_queue_tokens",
    "lava_prefill_pages_reserved",
    "lava_prefill_cache_bytes_reserved",
    "lava_prefill_transfers",
    "lava_decode_slots",
    "lava_decode_tickets",
    "lava_decode_transfers",
    "lava_decode_pages_reserved",
    "lava_decode_cache_bytes_reserved",
];

/// One process; it is killed when dropped.
pub(crate) struct Process {
    child: Child,
    http: SocketAddr,
    log: std::path::PathBuf,
}

/// A port that nobody else has.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], lava_test_support::free_ports(1)[0]))
}

impl Process {
    /// Starts `lava` with `arguments`; logs go to a file of `folder`.
    pub(crate) fn start(folder: &Path, name: &str, arguments: &[String]) -> Self {
        Self::spawn(
            Command::new(env!("CARGO_BIN_EXE_lava")),
            folder,
            name,
            arguments,
        )
    }

    /// The same with one thread for its engine, so that several engines share the machine without
    /// spinning for each other's cores.
    pub(crate) fn start_small(folder: &Path, name: &str, arguments: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lava"));
        command.env("RAYON_NUM_THREADS", "1");
        Self::spawn(command, folder, name, arguments)
    }

    fn spawn(mut command: Command, folder: &Path, name: &str, arguments: &[String]) -> Self {
        let http = free_address();
        let log = folder.join(format!("{name}.log"));
        let child = command
            .args(arguments)
            .args(["--set", "telemetry.format=json"])
            .args([
                "--set",
                "telemetry.level=debug,h2=info,hyper=info,tower=info",
            ])
            .args(["--set", &format!("http.listen=\"{http}\"")])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .expect("the binary starts");
        Self { child, http, log }
    }

    /// Waits until `/readyz` says so.
    pub(crate) fn ready(&mut self) {
        let began = Instant::now();
        while get(self.http, "/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the process ended: {}", self.log());
            assert!(began.elapsed() < READY_TIMEOUT, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The value of a series, labels included in its name; none if it is not there.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let page = get(self.http, "/metrics").expect("the process serves /metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map(|value| value.parse().expect("a metric is a number"))
    }

    /// Ends it as an operator would, and gives its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.exit_code()
    }

    /// Waits for its end.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let signal = format!("-{signal}");
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// host:port of a worker's gRPC port, as its log has it.
    pub(crate) fn address(&self) -> String {
        let log = self.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let ready = |line: serde_json::Value| {
            let is_ready = line["message"].as_str()?.ends_with(" worker ready");
            is_ready.then(|| line["address"].as_str().map(str::to_owned))?
        };
        lines
            .into_iter()
            .find_map(ready)
            .expect("the worker logs its address")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A coordinator and its workers.
pub(crate) struct Cluster {
    /// The coordinator first.
    pub(crate) processes: Vec<Process>,
    /// Where clients come in.
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// All roles in one process; `settings` are `key=value`.
    pub(crate) fn one_process(model: &Path, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut arguments = vec![
            "serve".to_owned(),
            "--model".into(),
            model.display().to_string(),
        ];
        push_settings(&mut arguments, &[&format!("listen.address=\"{address}\"")]);
        push_settings(&mut arguments, settings);
        let mut process = Process::start(folder.path(), "serve", &arguments);
        process.ready();
        Self {
            processes: vec![process],
            address,
            _folder: folder,
        }
    }

    /// Each role in a process of its own.
    pub(crate) fn three_processes(model: &Path) -> Self {
        Self::of_models(model, model)
    }

    /// As [`three_processes`](Self::three_processes), with a model for each worker.
    pub(crate) fn of_models(prefill: &Path, decode: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Vec::new();
        let mut addresses = Vec::new();
        for (role, model) in [("prefill", prefill), ("decode", decode)] {
            let address = free_address();
            let mut arguments = vec![role.to_owned()];
            let model = format!("model.path={:?}", model.display().to_string());
            push_settings(
                &mut arguments,
                &[&format!("listen.address=\"{address}\""), &model],
            );
            push_settings(&mut arguments, &["model.name=\"model\""]);
            processes.push(Process::start(folder.path(), role, &arguments));
            addresses.push(address.to_string());
        }
        processes.iter_mut().for_each(Process::ready);
        let address = free_address();
        let mut arguments = vec!["coordinator".to_owned()];
        let workers = format!("workers.addresses={addresses:?}");
        push_settings(
            &mut arguments,
            &[&format!("listen.address=\"{address}\""), &workers],
        );
        push_settings(&mut arguments, &["workers.probe_interval_ms=100"]);
        processes.insert(0, Process::start(folder.path(), "coordinator", &arguments));
        Self {
            processes,
            address,
            _folder: folder,
        }
    }

    /// Waits until the coordinator has workers that fit together.
    pub(crate) fn ready(mut self) -> Self {
        self.processes.iter_mut().for_each(Process::ready);
        self
    }

    pub(crate) async fn client(&self) -> InferenceClient<Channel> {
        let endpoint = format!("http://{}", self.address);
        InferenceClient::connect(endpoint).await.unwrap()
    }

    /// The value of a series of whichever process has it.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let found = self
            .processes
            .iter()
            .find_map(|process| process.metric(name));
        found.unwrap_or_else(|| panic!("no process has {name}"))
    }

    /// Waits until no process holds anything of any request.
    pub(crate) fn idle(&self) {
        let began = Instant::now();
        loop {
            let held: Vec<_> = HELD
                .iter()
                .map(|name| (name, self.metric(name)))
                .filter(|(_, value)| *value != 0.0)
                .collect();
            if held.is_empty() {
                return;
            }
            assert!(began.elapsed() < IDLE_TIMEOUT, "still held: {held:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn push_settings(arguments: &mut Vec<String>, settings: &[&str]) {
    for setting in settings {
        arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
}
