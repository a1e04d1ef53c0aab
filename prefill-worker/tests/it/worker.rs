//! Starting a worker and asking it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_engine::{Compute, Model, ModelFiles, OnDevice, RowFormat, WeightFormat};
use lava_node::{Health, Metrics, Shutdown};
use lava_prefill_worker::{PrefillSection, PrefillWorker};
use lava_proto::v1::Sampling;
use lava_proto::worker::prefill_client::PrefillClient;
use lava_proto::worker::prefill_event::Event;
use lava_proto::worker::{Attempt, FirstToken, PrefillDone, PrefillRequest};
use lava_test_support::{HfDtype, Order, ToyModel, WatchedGpu};
use lava_worker::{LanePlan, Loaded, Membership, ModelSection};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn load(path: &Path) -> Arc<Loaded> {
    let section = ModelSection::default();
    let files = ModelFiles::find(path.to_str().unwrap(), false).unwrap();
    Loaded::load(&section, "model".into(), &files, &mut |_, _| {}).unwrap()
}

pub(crate) fn load_toy(toy: &ToyModel) -> Arc<Loaded> {
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    load(folder.path())
}

/// On a GPU that is this machine.
pub(crate) fn load_on_gpu(toy: &ToyModel) -> (Arc<Loaded>, WatchedGpu) {
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let files = ModelFiles::Folder(folder.path().to_owned());
    let gpu = WatchedGpu::start(Order::Forward);
    let on = OnDevice {
        gpu: gpu.gpu(),
        compute: Compute::Bf16,
        block_tokens: 64,
        graphs: false,
    };
    let model = Model::load_on(on, &files, WeightFormat::Stored, &mut |_, _| {}).unwrap();
    let formats = RowFormat::ALL[1..].to_vec();
    let loaded = Loaded::of(model, "model".into(), formats, &files).unwrap();
    (loaded, gpu)
}

pub(crate) async fn start(loaded: Arc<Loaded>) -> PrefillClient<Channel> {
    start_with(PrefillSection::default(), loaded).await
}

pub(crate) async fn start_with(
    section: PrefillSection,
    loaded: Arc<Loaded>,
) -> PrefillClient<Channel> {
    start_watched(section, loaded, None, Health::new()).await.0
}

/// A worker whose health is `health`, and how it will have ended.
pub(crate) async fn start_watched(
    section: PrefillSection,
    loaded: Arc<Loaded>,
    lanes: Option<LanePlan>,
    health: Health,
) -> (PrefillClient<Channel>, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let worker = PrefillWorker::new(section, loaded, lanes, &mut Metrics::new()).unwrap();
    let serving = tokio::spawn(worker.serve(
        listener,
        Membership {
            registry: Registry::memory(),
            worker_id: "prefill-test".into(),
            address: address.to_string(),
        },
        health,
        Shutdown::new(),
    ));
    let client = PrefillClient::connect(format!("http://{address}"));
    (client.await.unwrap(), serving)
}

/// A greedy attempt for `prompt`.
pub(crate) fn request(
    loaded: &Loaded,
    prompt: &[u32],
    policy: &str,
    budget: u32,
    link_address: String,
) -> PrefillRequest {
    let attempt = Attempt {
        request_id: "test".into(),
        number: 0,
        fingerprint: loaded.fingerprint.to_vec().into(),
        prompt_digest: lava_proto::prompt_digest(prompt).to_vec().into(),
        tokens: prompt.len() as u32,
        policy: policy.into(),
        budget,
        row_format: "f16".into(),
        sampling: Some(Sampling::default()),
        max_tokens: 4,
        deadline_ms: PATIENCE.as_millis() as u64,
        ..Default::default()
    };
    PrefillRequest {
        attempt: Some(attempt),
        prompt: lava_proto::ids_to_bytes(&[prompt]).into(),
        ticket: vec![9; 16].into(),
        link_address,
    }
}

/// Both events of a good prefill.
pub(crate) async fn run(
    client: &mut PrefillClient<Channel>,
    request: PrefillRequest,
) -> Result<(FirstToken, PrefillDone), Status> {
    let mut events = client.run(request).await?.into_inner();
    let mut next = async || -> Result<Event, Status> {
        let event = timeout(PATIENCE, events.message())
            .await
            .expect("an event or an end")?;
        Ok(event.and_then(|event| event.event).expect("an event"))
    };
    let Event::FirstToken(first) = next().await? else {
        panic!("the first event is the first token");
    };
    let Event::Done(done) = next().await? else {
        panic!("the second event is the end");
    };
    Ok((first, done))
}
