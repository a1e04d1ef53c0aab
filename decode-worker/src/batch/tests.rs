//! An engine that dies: what becomes of its sequences and of the worker.

use lava_engine::{
    Compute, Model, ModelFiles, OnDevice, PagePool, RaggedCache, RowFormat, WeightFormat,
};
use lava_kv::Ticket;
use lava_node::{Health, Held, Metrics, State, supervise_thread};
use lava_proto::v1::Sampling;
use lava_proto::worker as proto;
use lava_test_support::{HfDtype, Order, ToyModel, WatchedGpu};
use lava_worker::{Attempt, ModelSection};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::*;
use crate::output::{Output, OutputStream};
use crate::tickets::Tickets;

const PATIENCE: Duration = Duration::from_secs(20);

fn toy() -> Arc<Loaded> {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::default();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let files = ModelFiles::find(folder.path().to_str().unwrap(), false).unwrap();
    Loaded::load(
        &ModelSection::default(),
        "toy".into(),
        &files,
        &mut |_, _| {},
    )
    .unwrap()
}

/// On a GPU that is this machine.
fn toy_on_gpu() -> (Arc<Loaded>, WatchedGpu) {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel {
        head_dim: 64,
        hidden: 256,
        ..ToyModel::default()
    };
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let files = ModelFiles::Folder(folder.path().to_owned());
    let gpu = WatchedGpu::start(Order::Backward);
    let on = OnDevice {
        gpu: gpu.gpu(),
        compute: Compute::F16,
        block_tokens: 64,
        graphs: false,
    };
    let model = Model::load_on(on, &files, WeightFormat::Stored, &mut |_, _| {}).unwrap();
    let loaded = Loaded::of(model, "toy".into(), vec![RowFormat::F16], &files).unwrap();
    (loaded, gpu)
}

/// A worker without its sockets.
struct Bench {
    loaded: Arc<Loaded>,
    pool: PagePool,
    counters: Counters,
    tickets: Tickets,
    health: Health,
    batch: Batch,
}

impl Bench {
    fn start() -> Bench {
        Bench::of(toy())
    }

    fn of(loaded: Arc<Loaded>) -> Bench {
        let pool = loaded.model.pool(1000).unwrap();
        let counters = Counters::register(&mut Metrics::new(), pool.clone(), Arc::default());
        let health = Health::new();
        health.serving();
        let section = DecodeSection::default();
        let (batch, batcher) = Batch::new(section, Arc::clone(&loaded), counters.clone());
        supervise_thread("decode engine", &health, move || Ok(batcher.run()?)).unwrap();
        Bench {
            loaded,
            pool,
            counters,
            tickets: Tickets::default(),
            health,
            batch,
        }
    }

    /// A slot for an empty cache that may grow by `max_tokens`, and what its caller reads.
    fn slot(&self, number: u8, max_tokens: u32) -> (Slot, OutputStream) {
        let message = proto::Attempt {
            request_id: "test".into(),
            fingerprint: self.loaded.fingerprint.to_vec().into(),
            prompt_digest: vec![0; 16].into(),
            tokens: 1,
            policy: "full".into(),
            budget: 1,
            row_format: "f16".into(),
            sampling: Some(Sampling::default()),
            max_tokens,
            deadline_ms: 60_000,
            ..Default::default()
        };
        let attempt = Attempt::check(message, &self.loaded).unwrap();
        let (output, pending) = Output::new(DecodeSection::default().output_max);
        let shown = Held::new(self.counters.slots.clone(), 1);
        let ticket = Ticket([number; 16]);
        let slot = Slot::reserve(
            attempt,
            ticket,
            &[],
            &self.pool,
            &self.loaded,
            output,
            shown,
        );
        let claim = self.tickets.insert(slot.unwrap(), self.counters.clone());
        let stream = pending.stream(claim);
        (self.tickets.take(ticket).unwrap(), stream)
    }

    fn submit(&self, slot: Slot) -> Result<(), Refusal> {
        self.batch.submit(Live {
            slot,
            first_token: 1,
            sealed: Instant::now(),
        })
    }
}

#[tokio::test]
async fn promise_6_a_gpu_that_breaks_down_ends_its_answers_and_flips_health() {
    let (loaded, gpu) = toy_on_gpu();
    let bench = Bench::of(loaded);
    let (good, mut answer) = bench.slot(1, 200);
    bench.submit(good).unwrap();
    let first = timeout(PATIENCE, answer.next()).await.unwrap();
    assert!(first.unwrap().is_ok());
    gpu.break_down();
    let refused = async {
        loop {
            if let Err(status) = answer.next().await.expect("it says why it ends") {
                return status;
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.unwrap();
    // The coordinator goes on elsewhere.
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(
        refused.message().contains("it has broken down"),
        "{refused}"
    );
    let reason = timeout(PATIENCE, bench.health.failure()).await.unwrap();
    assert_eq!(reason, "decode engine failed");
    assert_eq!(bench.pool.pages_reserved(), 0);
}

#[tokio::test]
async fn promise_6_an_engine_that_panics_ends_its_answers_and_flips_health() {
    let bench = Bench::start();
    let (good, mut answer) = bench.slot(1, 500);
    bench.submit(good).unwrap();
    let first = timeout(PATIENCE, answer.next()).await.unwrap();
    assert!(first.unwrap().is_ok());
    assert_eq!(bench.health.state(), State::Serving);

    // A bug: a cache that was given less than its worst case.
    let (mut bad, mut other) = bench.slot(2, 500);
    let nothing = bench.pool.reserve(0).unwrap();
    bad.cache = RaggedCache::new(bad.attempt.shape, nothing);
    bench.submit(bad).unwrap();

    // Both end, without a last event, which makes the coordinator go on elsewhere.
    for answer in [&mut answer, &mut other] {
        let ended = async { while answer.next().await.is_some_and(|event| event.is_ok()) {} };
        timeout(PATIENCE, ended).await.expect("its answers end");
    }
    let reason = timeout(PATIENCE, bench.health.failure()).await.unwrap();
    assert_eq!(reason, "decode engine panicked");
    // Nothing is held, and nothing waits for an engine that is gone.
    assert_eq!(bench.pool.pages_reserved(), 0);
    assert_eq!(bench.counters.slots.get(), 0);
    let (late, _) = bench.slot(3, 500);
    let refused = bench.submit(late).unwrap_err();
    assert_eq!(refused.to_string(), "the worker's engine stopped");
    assert_eq!(bench.pool.pages_reserved(), 0);
}
