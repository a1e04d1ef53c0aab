//! A cluster around a real etcd whose processes are killed, frozen, drained and started again by name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lava_proto::v1::inference_client::InferenceClient;
use lava_test_support::Etcd;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{HELD, Process, free_address, push_settings};
use crate::{SMOLLM2, model};

/// Time for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes by name: `prefill-0`, `decode-1`, `coordinator-0`.
pub(crate) struct Fleet {
    pub(crate) etcd: Etcd,
    running: BTreeMap<String, Process>,
    /// Where each coordinator listens, also while it is down.
    coordinators: BTreeMap<String, SocketAddr>,
    /// More settings of workers, `key=value` by role or name.
    settings: BTreeMap<&'static str, Vec<String>>,
    /// Processes started so far, so that each has a log of its own.
    started: usize,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Two workers of each role and one coordinator, ready.
    pub(crate) async fn start() -> Fleet {
        Fleet::with(&[]).await
    }

    /// As [`start`](Self::start), with settings of one role each: `("decode", "decode.slots_max=2")`; or of one process:
    /// `("decode-1", "model.path=...")`.
    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Fleet {
        let mut fleet = Fleet {
            etcd: Etcd::start(1).await,
            running: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            settings: BTreeMap::new(),
            started: 0,
            folder: tempfile::tempdir().unwrap(),
        };
        for (role, setting) in settings {
            let of_role = fleet.settings.entry(role).or_default();
            of_role.push((*setting).to_owned());
        }
        let names = [
            "prefill-0",
            "prefill-1",
            "decode-0",
            "decode-1",
            "coordinator-0",
        ];
        names.iter().for_each(|name| fleet.spawn(name));
        names.iter().for_each(|name| fleet.ready(name));
        fleet.workers_ready("prefill", 2);
        fleet.workers_ready("decode", 2);
        fleet
    }

    /// Starts a process, which is none of those that run, and waits until it is ready.
    pub(crate) fn restart(&mut self, name: &str) {
        self.spawn(name);
        self.ready(name);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, name: &str) {
        drop(self.take(name));
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self, name: &str) -> Option<i32> {
        self.take(name).terminate()
    }

    /// Takes a process out, so that it can be waited for.
    pub(crate) fn take(&mut self, name: &str) -> Process {
        let process = self.running.remove(name);
        process.unwrap_or_else(|| panic!("{name} runs not"))
    }

    pub(crate) fn process(&self, name: &str) -> &Process {
        &self.running[name]
    }

    /// The worker of a role in which this gauge is not 0.
    pub(crate) fn busy(&self, role: &str, gauge: &str) -> Option<String> {
        let mut of_role = self
            .running
            .iter()
            .filter(|(name, _)| name.starts_with(role));
        let busy = of_role.find(|(_, process)| process.metric(gauge).is_some_and(|v| v != 0.0));
        busy.map(|(name, _)| name.clone())
    }

    /// Waits until there is such a worker.
    pub(crate) async fn until_busy(&self, role: &str, gauge: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(name) = self.busy(role, gauge) {
                return name;
            }
            assert!(began.elapsed() < PATIENCE, "no {role} worker has {gauge}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every coordinator has this many workers of a role to place requests on.
    pub(crate) fn workers_ready(&self, role: &str, count: usize) {
        let series = format!("lava_coordinator_workers_ready{{role=\"{role}\"}}");
        let what = format!("{count} {role} workers are ready");
        let coordinators = || self.of_role("coordinator");
        self.until(&what, || {
            coordinators().all(|process| process.metric(&series) == Some(count as f64))
        });
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The sum of a series over all processes that run.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let values = self
            .running
            .values()
            .filter_map(|process| process.metric(name));
        values.sum()
    }

    /// Waits until no process holds anything of any request.
    pub(crate) fn idle(&self) {
        self.until("nothing is held", || {
            HELD.iter().all(|name| self.metric(name) == 0.0)
        });
    }

    /// A client of the first coordinator.
    pub(crate) async fn client(&self) -> InferenceClient<Channel> {
        let address = self
            .coordinators
            .values()
            .next()
            .expect("there is a coordinator");
        let endpoint = format!("http://{address}");
        InferenceClient::connect(endpoint).await.unwrap()
    }

    /// Clients of every coordinator, also of those that are down.
    pub(crate) fn clients(&self) -> Vec<InferenceClient<Channel>> {
        let client = |address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            InferenceClient::new(endpoint.connect_lazy())
        };
        self.coordinators.values().map(client).collect()
    }

    pub(crate) fn of_role(&self, role: &str) -> impl Iterator<Item = &Process> {
        let of_role = self
            .running
            .iter()
            .filter(move |(name, _)| name.starts_with(role));
        of_role.map(|(_, process)| process)
    }

    pub(crate) fn spawn(&mut self, name: &str) {
        let (role, _) = name.split_once('-').expect("a name is role-number");
        let mut arguments = vec![role.to_owned()];
        let endpoints = self.etcd.endpoints();
        push_settings(
            &mut arguments,
            &[
                &format!("etcd.endpoints={endpoints:?}"),
                "etcd.lease_ttl_ms=2000",
                "etcd.request_timeout_ms=1000",
            ],
        );
        let address = match role {
            "coordinator" => {
                push_settings(&mut arguments, &["workers.probe_interval_ms=100"]);
                let known = self.coordinators.entry(name.to_owned());
                *known.or_insert_with(free_address)
            }
            _ => {
                let model = format!("model.path={:?}", model(SMOLLM2).display().to_string());
                push_settings(&mut arguments, &[&model, "model.name=\"model\""]);
                SocketAddr::from(([127, 0, 0, 1], 0))
            }
        };
        push_settings(&mut arguments, &[&format!("listen.address=\"{address}\"")]);
        for (of_role, settings) in &self.settings {
            if *of_role == role || *of_role == name {
                let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
                push_settings(&mut arguments, &settings);
            }
        }
        self.started += 1;
        let log = format!("{:02}-{name}", self.started);
        let process = Process::start_small(self.folder.path(), &log, &arguments);
        let before = self.running.insert(name.to_owned(), process);
        assert!(before.is_none(), "{name} runs already");
    }

    pub(crate) fn ready(&mut self, name: &str) {
        self.running.get_mut(name).expect("it was started").ready();
    }
}
