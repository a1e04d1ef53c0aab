//! A coordinator between real clients and scripted workers, on loopback.

mod admission;
mod answers;
mod endings;
mod faults;
mod placing;
mod scripted;
mod surface;

use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_coordinator::{Config, CoordinatorMetrics, run};
use lava_node::{Health, Metrics, Shutdown};
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{GenerateRequest, GenerateResponse, Prompt, prompt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use scripted::Scripted;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.expect("what must happen happens in time")
}

/// A running coordinator.
struct Coordinator {
    channel: Channel,
    shutdown: Shutdown,
    judged: Health,
    metrics: Arc<prometheus_client::registry::Registry>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Coordinator {
    /// One that serves the workers' model already.
    async fn start(workers: &[&Scripted]) -> Coordinator {
        Coordinator::configured(workers, |_| {}).await
    }

    async fn configured(workers: &[&Scripted], change: impl FnOnce(&mut Config)) -> Coordinator {
        let registry = Registry::of_addresses(workers.iter().map(|w| w.address.clone()));
        let coordinator = Coordinator::with(registry, change).await;
        coordinator.serving().await;
        coordinator
    }

    /// One that may serve nothing yet.
    async fn with(registry: Registry, change: impl FnOnce(&mut Config)) -> Coordinator {
        let mut config = Config::default();
        config.workers.probe_interval_ms = 20;
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let mut metrics = Metrics::new();
        let counters = CoordinatorMetrics::register(&mut metrics);
        let health = Health::new();
        let plan = config.into_plan().unwrap();
        let task = tokio::spawn(run(
            plan,
            registry,
            listener,
            counters,
            health.clone(),
            shutdown.clone(),
        ));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        Coordinator {
            channel: channel.connect().await.unwrap(),
            shutdown,
            judged: health,
            metrics: metrics.finish(),
            task,
        }
    }

    async fn serving(&self) {
        self.health(ServingStatus::Serving).await;
    }

    async fn health(&self, wanted: ServingStatus) {
        let mut health = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest::default();
        let mut watch = health.watch(request).await.unwrap().into_inner();
        while within(watch.message()).await.unwrap().unwrap().status() != wanted {}
    }

    fn client(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel.clone())
    }

    async fn generate(&self, request: GenerateRequest) -> Streaming<GenerateResponse> {
        let response = within(self.client().generate(request)).await;
        response.expect("the request is taken in").into_inner()
    }

    async fn refused(&self, request: GenerateRequest) -> Status {
        let response = within(self.client().generate(request)).await;
        response.expect_err("the request is refused")
    }

    /// Waits until a line of the metrics reads so.
    async fn metric(&self, line: &str) {
        let reads_so = async {
            while !self.metrics_text().lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reads_so).await.is_err() {
            panic!("no line {line} in\n{}", self.metrics_text());
        }
    }

    /// Waits until no answer is under way.
    async fn flights_ended(&self) {
        self.metric("lava_coordinator_flights 0").await;
    }

    fn metrics_text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(text: &str) -> GenerateRequest {
    GenerateRequest {
        model: "toy".to_owned(),
        prompt: Some(Prompt {
            form: Some(prompt::Form::Text(text.to_owned())),
        }),
        ..GenerateRequest::default()
    }
}

/// The next message, which must come.
async fn next(answer: &mut Streaming<GenerateResponse>) -> GenerateResponse {
    let message = within(answer.message()).await;
    message.expect("a message and no error").expect("a message")
}

/// The status that an answer ends with.
async fn failure(answer: &mut Streaming<GenerateResponse>) -> (Code, String) {
    loop {
        match within(answer.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer ended well"),
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
}

fn ids(message: &GenerateResponse) -> Vec<u32> {
    message.tokens.iter().map(|token| token.id).collect()
}
