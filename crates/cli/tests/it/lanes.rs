//! A prefill worker and a decode worker with a lane between them, used as coordinators use them. What stands for NCCL is in this process.

use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_decode_worker::{DecodeSection, DecodeWorker};
use lava_engine::ModelFiles;
use lava_node::{Health, Metrics, Shutdown};
use lava_prefill_worker::{PrefillSection, PrefillWorker};
use lava_proto::v1::Sampling;
use lava_proto::worker::decode_client::DecodeClient;
use lava_proto::worker::decode_event::Event as Decoded;
use lava_proto::worker::prefill_client::PrefillClient;
use lava_proto::worker::prefill_event::Event as Prefilled;
use lava_proto::worker::{Attempt, DecodeRequest, PrefillRequest};
use lava_test_support::{Architecture, FabricFaults, FakeFabric, Fault, HfDtype, Switch, ToyModel};
use lava_worker::{LanePlan, Loaded, Membership, ModelSection};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

/// Both workers.
struct Pair {
    loaded: Arc<Loaded>,
    prefill: PrefillClient<Channel>,
    decode: DecodeClient<Channel>,
    decode_address: String,
    /// Of the prefill worker.
    fabric: Arc<FakeFabric>,
}

async fn listen() -> (TcpListener, Membership) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let membership = Membership {
        registry: Registry::memory(),
        worker_id: address.clone(),
        address,
    };
    (listener, membership)
}

impl Pair {
    async fn start(faults: FabricFaults) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toy = ToyModel {
            context: 1024,
            ..ToyModel::new(Architecture::Qwen2)
        };
        toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
        let files = ModelFiles::Folder(folder.path().to_owned());
        let section = ModelSection::default();
        let loaded = Loaded::load(&section, "toy".into(), &files, &mut |_, _| {}).unwrap();

        let switch = Arc::new(Switch::default());
        let fabric = FakeFabric::new(&switch, faults);
        let plan = |fabric: Arc<FakeFabric>| LanePlan {
            fabric,
            timeout: Duration::from_millis(500),
        };
        let (section, lanes) = (PrefillSection::default(), Some(plan(fabric.clone())));
        let metrics = &mut Metrics::new();
        let prefill = PrefillWorker::new(section, loaded.clone(), lanes, metrics).unwrap();
        let other_end = FakeFabric::new(&switch, FabricFaults::default());
        let (section, lanes) = (DecodeSection::default(), Some(plan(other_end)));
        let metrics = &mut Metrics::new();
        let decode = DecodeWorker::new(section, loaded.clone(), lanes, metrics).unwrap();

        let (listener, member) = listen().await;
        let prefill_address = member.address.clone();
        tokio::spawn(prefill.serve(listener, member, Health::new(), Shutdown::new()));
        let (listener, member) = listen().await;
        let decode_address = member.address.clone();
        tokio::spawn(decode.serve(listener, member, Health::new(), Shutdown::new()));
        let prefill = PrefillClient::connect(format!("http://{prefill_address}")).await;
        let decode = DecodeClient::connect(format!("http://{decode_address}")).await;
        Self {
            loaded,
            prefill: prefill.unwrap(),
            decode: decode.unwrap(),
            decode_address,
            fabric,
        }
    }

    /// The ids of an answer.
    async fn ask(&mut self) -> Vec<u32> {
        let prompt: Vec<u32> = (0..400).map(|i| (i * i * 7 + i) % 200).collect();
        let attempt = Attempt {
            request_id: "test".into(),
            fingerprint: self.loaded.fingerprint.to_vec().into(),
            prompt_digest: lava_proto::prompt_digest(&prompt).to_vec().into(),
            tokens: prompt.len() as u32,
            policy: "lava-peaks".into(),
            budget: 64,
            row_format: "int4".into(),
            sampling: Some(Sampling::default()),
            max_tokens: 12,
            deadline_ms: PATIENCE.as_millis() as u64,
            ..Default::default()
        };
        let checked = lava_worker::Attempt::check(attempt.clone(), &self.loaded).unwrap();
        let reserve = DecodeRequest {
            attempt: Some(attempt.clone()),
            rows_max: checked.rows_grown_max() as u64,
            ..Default::default()
        };
        let mut decoded = self.decode.run(reserve).await.unwrap().into_inner();
        let mut decoded = async || decoded.message().await.unwrap().unwrap().event.unwrap();
        let Decoded::Reserved(reserved) = decoded().await else {
            panic!("the first event is the reservation");
        };
        let run = PrefillRequest {
            attempt: Some(attempt),
            prompt: lava_proto::ids_to_bytes(&[&prompt]).into(),
            ticket: reserved.ticket,
            link_address: self.decode_address.clone(),
        };
        let mut prefilled = self.prefill.run(run).await.unwrap().into_inner();
        let first = prefilled.message().await.unwrap().unwrap().event.unwrap();
        let Prefilled::FirstToken(first) = first else {
            panic!("the first event is the first token");
        };
        let mut ids = vec![first.token.unwrap().id];
        let done = prefilled.message().await.unwrap().unwrap().event.unwrap();
        assert!(matches!(done, Prefilled::Done(_)));
        loop {
            match decoded().await {
                Decoded::Tokens(tokens) => ids.extend(tokens.tokens.iter().map(|token| token.id)),
                Decoded::Done(_) => return ids,
                Decoded::FirstStep(_) => {}
                Decoded::Reserved(_) => panic!("a second reservation"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_over_grpc_over_a_lane_and_when_the_lane_breaks() {
    // In the first answer over the lane all is well, in the second one it breaks.
    let layers = ToyModel::new(Architecture::Qwen2).layers;
    let faults = FabricFaults {
        send: Some((layers + 1, Fault::NeverCompletes)),
        ..Default::default()
    };
    let mut pair = Pair::start(faults).await;
    let mut ask = async || timeout(PATIENCE, pair.ask()).await.expect("an answer");
    let over_grpc = ask().await;
    assert_eq!(over_grpc.len(), 12);
    let fabric = pair.fabric.clone();
    let mut answers = Vec::new();
    let opened = async {
        while fabric.sends() == 0 {
            answers.push(pair.ask().await);
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, opened).await.expect("a lane is opened");
    while fabric.sends() <= layers + 1 {
        answers.push(timeout(PATIENCE, pair.ask()).await.expect("an answer"));
    }
    // Until it is opened again, there is none.
    answers.push(timeout(PATIENCE, pair.ask()).await.expect("an answer"));
    assert!(answers.iter().all(|answer| *answer == over_grpc));
}
