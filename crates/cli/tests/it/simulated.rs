//! A real coordinator among simulated workers that fail as they are told: no request is lost, no token lost, repeated, or another's.

use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_coordinator::{Config, CoordinatorMetrics};
use lava_node::{Health, Metrics, Shutdown};
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{self, GenerateRequest};
use lava_proto::worker::DescribeRequest;
use lava_proto::worker::worker_client::WorkerClient;
use lava_simulate::{FaultKind, FaultSection, FaultStage, Model, Profile, Role, Worker};
use lava_test_support::{Architecture, HfDtype, ToyModel};
use lava_worker::Membership;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);
const REQUESTS: u32 = 24;
const WORKERS: usize = 3;

/// A coordinator, and where its workers are.
struct Fleet {
    client: InferenceClient<Channel>,
    workers: Vec<String>,
    shutdown: Shutdown,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// The same for all fleets, with the tokenizer of a toy.
struct Common {
    _folder: tempfile::TempDir,
    profile: Profile,
    model: Arc<Model>,
}

impl Common {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toy = ToyModel::new(Architecture::Llama);
        toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
        let mut profile = Profile::default();
        profile.model.text = Some(folder.path().to_owned());
        profile.model.vocabulary = toy.vocab as u32;
        // Steps take their time, so that faults come between them.
        profile.decode.step_ms = 2.0;
        let model = Arc::new(Model::load(&profile.model).unwrap());
        Self {
            _folder: folder,
            profile,
            model,
        }
    }

    /// Three workers of each role, of which the first has these faults.
    async fn fleet(&self, faults: &[FaultSection]) -> Fleet {
        let (registry, shutdown) = (Registry::memory(), Shutdown::new());
        let mut workers = Vec::new();
        for role in [Role::Prefill, Role::Decode] {
            for number in 0..WORKERS {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap().to_string();
                let membership = Membership {
                    registry: registry.clone(),
                    worker_id: format!("{role:?}-{number}"),
                    address: address.clone(),
                };
                let mut profile = self.profile.clone();
                if number == 0 {
                    profile.faults = faults.to_vec();
                }
                let worker = Worker {
                    role,
                    model: Arc::clone(&self.model),
                    profile,
                    watch: Default::default(),
                };
                let started = worker.spawn(listener, membership, Health::new(), shutdown.clone());
                drop(started.unwrap());
                workers.push(address);
            }
        }
        let mut config = Config::default();
        config.retry.attempts_max = 12;
        config.retry.percent = 1000;
        config.retry.pause_ms = 2;
        config.retry.reserve_ms = 300;
        config.retry.silence_ms = 300;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = CoordinatorMetrics::register(&mut Metrics::new());
        let (plan, health) = (config.into_plan().unwrap(), Health::new());
        let running = lava_coordinator::run(
            plan,
            registry,
            listener,
            metrics,
            health.clone(),
            shutdown.clone(),
        );
        tokio::spawn(running);
        let client = InferenceClient::connect(format!("http://{address}")).await;
        let mut fleet = Fleet {
            client: client.unwrap(),
            workers,
            shutdown,
        };
        fleet.until_ready().await;
        fleet
    }
}

impl Fleet {
    async fn until_ready(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let listed = self.client.list_models(v1::ListModelsRequest {}).await;
            let models = listed.unwrap().into_inner().models;
            let all = WORKERS as u32;
            let is_whole =
                |model: &v1::Model| model.prefill_workers == all && model.decode_workers == all;
            if models.first().is_some_and(is_whole) {
                return;
            }
            assert!(Instant::now() < until, "{models:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The ids of an answer, and how often it was begun again.
    async fn ask(&self, number: u32) -> (Vec<u32>, u32) {
        let ids = (0..40 + number).map(|i| (i * 7 + number) % 50).collect();
        let form = v1::prompt::Form::Tokens(v1::TokenIds { ids });
        let request = GenerateRequest {
            model: "simulated".into(),
            prompt: Some(v1::Prompt { form: Some(form) }),
            max_tokens: Some(16),
            budget_form: Some(v1::generate_request::BudgetForm::Budget(36)),
            ..Default::default()
        };
        let mut client = self.client.clone();
        let mut answer = client.generate(request).await.unwrap().into_inner();
        let (mut ids, mut recomputes) = (Vec::new(), 0);
        while let Some(message) = answer.message().await.unwrap() {
            ids.extend(message.tokens.iter().map(|token| token.id));
            if let Some(finish) = message.finish {
                recomputes = finish.transfer.unwrap_or_default().recomputes;
            }
        }
        (ids, recomputes)
    }

    /// All answers, eight at a time, and how often any was begun again.
    async fn ask_all(self: &Arc<Self>) -> (Vec<Vec<u32>>, u32) {
        let mut answers = Vec::new();
        let mut recomputes = 0;
        for first in (0..REQUESTS).step_by(8) {
            let asked: Vec<_> = (first..first + 8)
                .map(|number| {
                    let fleet = Arc::clone(self);
                    tokio::spawn(async move { timeout(PATIENCE, fleet.ask(number)).await })
                })
                .collect();
            for asked in asked {
                let (ids, more) = asked.await.unwrap().expect("an answer in time");
                answers.push(ids);
                recomputes += more;
            }
        }
        (answers, recomputes)
    }

    /// Nothing is held on any worker that is still there.
    async fn until_idle(&self) {
        let until = Instant::now() + PATIENCE;
        for address in &self.workers {
            let Ok(mut client) = WorkerClient::connect(format!("http://{address}")).await else {
                continue;
            };
            loop {
                let described = client.describe(DescribeRequest::default()).await.unwrap();
                let load = described.into_inner().load.unwrap();
                if (load.queue, load.slots, load.pages_reserved) == (0, 0, 0) {
                    break;
                }
                assert!(Instant::now() < until, "{load:?}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Workers' sockets once waited for acknowledgements before they sent the next small message: 40 ms in every answer.
#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_wait_for_acknowledgements() {
    let mut common = Common::new();
    common.profile.decode.step_ms = 0.0;
    let fleet = common.fleet(&[]).await;
    let mut times = Vec::new();
    for _ in 0..41 {
        let began = Instant::now();
        timeout(PATIENCE, fleet.ask(1)).await.expect("an answer");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    assert!(times[20] < Duration::from_millis(25), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_workers_that_fail_at_any_stage_cost_no_request_and_no_token() {
    let common = Common::new();
    let fleet = Arc::new(common.fleet(&[]).await);
    let (expected, recomputes) = fleet.ask_all().await;
    assert_eq!(recomputes, 0);
    assert!(expected.iter().all(|answer| answer.len() == 16));
    fleet.until_idle().await;

    use FaultKind::{Break, Corrupt, Late, Refuse, Stall, Vanish};
    use FaultStage::{Accept, Decode, Prefill, Transfer};
    for (role, stage, kind) in [
        (Role::Prefill, Accept, Refuse),
        (Role::Prefill, Accept, Break),
        (Role::Prefill, Prefill, Break),
        (Role::Prefill, Prefill, Late),
        (Role::Prefill, Transfer, Break),
        (Role::Prefill, Transfer, Stall),
        (Role::Prefill, Transfer, Corrupt),
        (Role::Prefill, Prefill, Vanish),
        (Role::Decode, Accept, Refuse),
        (Role::Decode, Accept, Break),
        (Role::Decode, Accept, Stall),
        (Role::Decode, Transfer, Break),
        (Role::Decode, Transfer, Stall),
        (Role::Decode, Transfer, Vanish),
        (Role::Decode, Decode, Break),
        (Role::Decode, Decode, Stall),
        (Role::Decode, Decode, Late),
        (Role::Decode, Decode, Vanish),
    ] {
        let fault = FaultSection {
            role,
            stage,
            kind,
            probability: 0.5,
            late_ms: 30,
        };
        let fleet = Arc::new(common.fleet(&[fault]).await);
        let (answers, recomputes) = fleet.ask_all().await;
        assert!(answers == expected, "{fault:?}");
        // A stage that was never reached would prove nothing. Refusals and lateness cost no attempt.
        let costs = matches!(kind, Break | Stall | Corrupt | Vanish) && stage != Accept;
        assert!(!costs || recomputes > 0, "{fault:?}");
        fleet.until_idle().await;
    }
}
