//! A load on a server that never answers.

use std::time::Duration;

use lava_lab::load::{Arrival, Load, Outcome, Progress, Readers, Record, Settings, Target};
use lava_proto::v1;
use lava_proto::v1::inference_server::{Inference, InferenceServer};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(10);

/// Calls that came, and calls that are still open.
#[derive(Clone, Copy, Default)]
struct Calls {
    came: usize,
    open: usize,
}

struct Silent(watch::Sender<Calls>);

/// Closes the call when it is dropped.
struct Call(watch::Sender<Calls>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|calls| calls.open -= 1);
    }
}

#[tonic::async_trait]
impl Inference for Silent {
    type GenerateStream = tokio_stream::Pending<Result<v1::GenerateResponse, Status>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        assert!(request.get_ref().ignore_end_of_text);
        self.0.send_modify(|calls| {
            calls.came += 1;
            calls.open += 1;
        });
        let _call = Call(self.0.clone());
        std::future::pending().await
    }

    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let model = v1::Model {
            name: "silent".into(),
            context_tokens: 512,
            vocabulary: 1000,
            ..Default::default()
        };
        Ok(Response::new(v1::ListModelsResponse {
            models: vec![model],
        }))
    }

    async fn get_model(
        &self,
        _: Request<v1::GetModelRequest>,
    ) -> Result<Response<v1::Model>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn tokenize(
        &self,
        _: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

async fn silent() -> (Target, watch::Receiver<Calls>) {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let (calls, seen) = watch::channel(Calls::default());
    let server = Server::builder().add_service(InferenceServer::new(Silent(calls)));
    tokio::spawn(server.serve_with_incoming(incoming));
    let target = Target::connect(&address, None, 300).await.unwrap();
    assert_eq!((target.model(), target.context_tokens()), ("silent", 512));
    (target, seen)
}

fn plan(starts_ms: &[u64]) -> Vec<Arrival> {
    let arrival = |ms: &u64| Arrival {
        at: Duration::from_millis(*ms),
        prompt_tokens: 20,
        output_tokens: 5,
        blocks: None,
    };
    starts_ms.iter().map(arrival).collect()
}

fn settings(in_flight_max: usize, time_allowed: Duration) -> Settings {
    Settings {
        methods: Vec::new(),
        budgets: Vec::new(),
        formats: Vec::new(),
        readers: Readers::default(),
        in_flight_max,
        time_allowed,
        seed: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_start_at_their_time_whatever_became_of_earlier_ones_and_beyond_the_bound_none_does()
 {
    let (target, seen) = silent().await;
    let time_allowed = Duration::from_secs(2);
    let plan = plan(&[0, 20, 40, 60, 80]);
    let load = Load {
        target: &target,
        plan: &plan,
        settings: settings(3, time_allowed),
    };
    let mut last = Progress::default();
    let records = load
        .run(std::future::pending(), &mut |progress| last = *progress)
        .await;

    let in_time = |record: &Record| match &record.outcome {
        Outcome::Failed(failure) => {
            failure.output_tokens == 0 && failure.took > time_allowed / 2 && failure.took < PATIENCE
        }
        _ => false,
    };
    assert!(records[..3].iter().all(in_time), "{records:?}");
    assert!(records.iter().all(|record| record.late < time_allowed / 2));
    let not_sent = |record: &Record| record.outcome == Outcome::NotSent;
    assert!(records[3..].iter().all(not_sent), "{records:?}");
    assert_eq!((records.len(), seen.borrow().came), (5, 3));
    let expected = Progress {
        planned: 5,
        sent: 3,
        failed: 3,
        not_sent: 2,
        ..Progress::default()
    };
    assert_eq!(last, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cancels_what_runs_and_sends_nothing_more() {
    let (target, mut seen) = silent().await;
    let plan = plan(&[0, 0, 3_600_000]);
    let load = Load {
        target: &target,
        plan: &plan,
        settings: settings(9, PATIENCE * 100),
    };
    let mut came = seen.clone();
    let stop = async move {
        let both = came.wait_for(|calls| calls.came == 2).await;
        both.expect("the server lives");
    };
    let mut unwatched = |_: &Progress| ();
    let run = tokio::time::timeout(PATIENCE, load.run(stop, &mut unwatched));
    let records = run.await.expect("it stops");
    let outcomes: Vec<_> = records.iter().map(|record| &record.outcome).collect();
    assert_eq!(outcomes, [&Outcome::Cancelled, &Outcome::Cancelled]);
    let closed = tokio::time::timeout(PATIENCE, seen.wait_for(|calls| calls.open == 0));
    closed.await.expect("the server is told").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_end_their_calls_within_their_time() {
    let (target, mut seen) = silent().await;
    let plan = plan(&[0, 0, 0]);
    let leave_within = Duration::from_millis(300);
    let leave = Some("1:300".parse().unwrap());
    let load = Load {
        target: &target,
        plan: &plan,
        settings: Settings {
            readers: Readers {
                leave,
                ..Readers::default()
            },
            ..settings(9, PATIENCE * 100)
        },
    };
    let mut last = Progress::default();
    let mut watch = |progress: &Progress| last = *progress;
    let run = tokio::time::timeout(PATIENCE, load.run(std::future::pending(), &mut watch));
    let records = run.await.expect("all leave");
    let in_time = |record: &Record| match &record.outcome {
        Outcome::Left(left) => left.output_tokens == 0 && left.took < leave_within + PATIENCE / 2,
        _ => false,
    };
    assert!(records.iter().all(in_time), "{records:?}");
    assert_eq!((last.sent, last.left, last.running), (3, 3, 0));
    let closed = tokio::time::timeout(PATIENCE, seen.wait_for(|calls| calls.open == 0));
    closed.await.expect("the server is told").unwrap();
}
