//! Workers that do what a test says, on loopback. A call that reaches one goes to the test, which sends
//! its events and sees when the coordinator drops it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use lava_proto::content_digest;
use lava_proto::v1::{FinishReason, Token, TransferStats};
use lava_proto::worker::decode_server::{Decode, DecodeServer};
use lava_proto::worker::prefill_server::{Prefill, PrefillServer};
use lava_proto::worker::worker_server::{Worker, WorkerServer};
use lava_proto::worker::{
    DecodeDone, DecodeEvent, DecodeRequest, DescribeRequest, Description, DrainRequest,
    DrainResponse, FirstStep, FirstToken, GetTextFilesRequest, Load, Model, PrefillDone,
    PrefillEvent, PrefillRequest, Reserved, Role, TextFiles, Tokens, decode_event, prefill_event,
};
use lava_test_support::{HfDtype, ToyModel, VOCAB_MIN};
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::within;

/// Id of a byte in the toy vocabulary.
pub(crate) fn byte_id(byte: u8) -> u32 {
    3 + u32::from(byte)
}

/// The toy model's end of text.
pub(crate) const END_OF_TEXT: u32 = 2;

/// The bytes of the toy model's text files.
pub(crate) fn text_files() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write_toy(folder.path());
    let files = lava_text::TextFiles::from_folder(folder.path()).unwrap();
    files.to_bytes()
}

fn write_toy(folder: &Path) {
    let toy = ToyModel {
        vocab: VOCAB_MIN,
        ..ToyModel::default()
    };
    toy.write_hf(folder, HfDtype::F32, 1).unwrap();
}

/// A worker of either role.
pub(crate) struct Scripted {
    pub(crate) address: String,
    /// What it says of itself; tests change it.
    pub(crate) description: Arc<Mutex<Description>>,
    /// The status that calls are refused with, if any.
    pub(crate) refuses: Arc<Mutex<Option<Status>>>,
    prefills: mpsc::Receiver<PrefillCall>,
    decodes: mpsc::Receiver<DecodeCall>,
    /// Of its own, so that its end closes the connections too, as the end of a process does.
    runtime: Option<Runtime>,
}

/// A call to a prefill worker.
pub(crate) struct PrefillCall {
    pub(crate) request: PrefillRequest,
    events: mpsc::Sender<Result<PrefillEvent, Status>>,
}

/// A call to a decode worker.
pub(crate) struct DecodeCall {
    pub(crate) request: DecodeRequest,
    pub(crate) events: mpsc::Sender<Result<DecodeEvent, Status>>,
}

impl Scripted {
    pub(crate) async fn prefill(id: &str) -> Scripted {
        Scripted::start(id, Role::Prefill).await
    }

    pub(crate) async fn decode(id: &str) -> Scripted {
        Scripted::start(id, Role::Decode).await
    }

    async fn start(id: &str, role: Role) -> Scripted {
        let content = text_files();
        let description = Description {
            worker_id: id.to_owned(),
            role: role.into(),
            model: Some(Model {
                name: "toy".to_owned(),
                fingerprint: vec![1; 16].into(),
                positions_max: 100_000,
                layers: 2,
                kv_heads: 2,
                head_dim: 16,
                vocabulary: VOCAB_MIN as u32,
                row_formats: vec!["f16".into(), "int4".into()],
                end_of_text: vec![END_OF_TEXT],
                text_digest: content_digest(&content).to_vec().into(),
                wire_version: lava_kv::WIRE_VERSION,
            }),
            load: Some(match role {
                Role::Prefill => Load {
                    queue_max: 8,
                    ..Load::default()
                },
                _ => Load {
                    pages_total: 100_000,
                    page_bytes: 16 * 64,
                    slots_max: 8,
                    ..Load::default()
                },
            }),
            draining: false,
            prefixes: None,
        };
        let description = Arc::new(Mutex::new(description));
        let refuses = Arc::new(Mutex::new(None));
        let (prefill_calls, prefills) = mpsc::channel(16);
        let (decode_calls, decodes) = mpsc::channel(16);
        let service = Arc::new(Service {
            description: Arc::clone(&description),
            content,
            refuses: Arc::clone(&refuses),
            prefill_calls,
            decode_calls,
        });
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.spawn(TcpListener::bind("127.0.0.1:0"));
        let listener = bound.await.unwrap().unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server::builder()
            .add_service(WorkerServer::from_arc(Arc::clone(&service)))
            .add_service(PrefillServer::from_arc(Arc::clone(&service)))
            .add_service(DecodeServer::from_arc(service))
            .serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(server);
        Scripted {
            address,
            description,
            refuses,
            prefills,
            decodes,
            runtime: Some(runtime),
        }
    }

    /// Changes what it says of itself.
    pub(crate) fn describe(&self, change: impl FnOnce(&mut Description)) {
        change(&mut self.description.lock().unwrap());
    }

    pub(crate) async fn next_prefill(&mut self) -> PrefillCall {
        within(self.prefills.recv()).await.expect("the worker runs")
    }

    pub(crate) async fn next_decode(&mut self) -> DecodeCall {
        within(self.decodes.recv()).await.expect("the worker runs")
    }

    /// The next call, whose reservation is answered.
    pub(crate) async fn next_reserved(&mut self, ticket: u8) -> DecodeCall {
        let call = self.next_decode().await;
        call.reserve(ticket).await;
        call
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl PrefillCall {
    pub(crate) async fn first(&self, id: u32, finish: FinishReason) {
        let first = FirstToken {
            token: Some(token(id)),
            finish: finish.into(),
        };
        self.send(prefill_event::Event::FirstToken(first)).await;
    }

    pub(crate) async fn done(&self, shipped_bytes: u64) {
        let stats = Some(TransferStats {
            shipped_bytes,
            ..TransferStats::default()
        });
        self.send(prefill_event::Event::Done(PrefillDone { stats }))
            .await;
    }

    pub(crate) async fn fail(&self, status: Status) {
        within(self.events.send(Err(status))).await.unwrap();
    }

    /// Waits for the coordinator to drop the call.
    pub(crate) async fn dropped(&self) {
        within(self.events.closed()).await;
    }

    async fn send(&self, event: prefill_event::Event) {
        let event = Some(event);
        let sent = within(self.events.send(Ok(PrefillEvent { event }))).await;
        sent.expect("the coordinator listens");
    }
}

impl DecodeCall {
    pub(crate) async fn reserve(&self, ticket: u8) {
        let reserved = Reserved {
            ticket: vec![ticket; 16].into(),
            link_address: String::new(),
            pages: 5,
        };
        self.send(decode_event::Event::Reserved(reserved)).await;
    }

    pub(crate) async fn first_step(&self) {
        let stats = Some(TransferStats {
            first_step_ms: 3.0,
            ..TransferStats::default()
        });
        self.send(decode_event::Event::FirstStep(FirstStep { stats }))
            .await;
    }

    pub(crate) async fn tokens(&self, ids: &[u32]) {
        let tokens = ids.iter().copied().map(token).collect();
        self.send(decode_event::Event::Tokens(Tokens { tokens }))
            .await;
    }

    pub(crate) async fn done(&self, reason: FinishReason) {
        let reason = reason.into();
        self.send(decode_event::Event::Done(DecodeDone { reason }))
            .await;
    }

    /// Waits for the coordinator to drop the call.
    pub(crate) async fn dropped(&self) {
        within(self.events.closed()).await;
    }

    async fn send(&self, event: decode_event::Event) {
        let event = Some(event);
        let sent = within(self.events.send(Ok(DecodeEvent { event }))).await;
        sent.expect("the coordinator listens");
    }
}

pub(crate) fn token(id: u32) -> Token {
    Token {
        id,
        ..Token::default()
    }
}

struct Service {
    description: Arc<Mutex<Description>>,
    content: Vec<u8>,
    refuses: Arc<Mutex<Option<Status>>>,
    prefill_calls: mpsc::Sender<PrefillCall>,
    decode_calls: mpsc::Sender<DecodeCall>,
}

impl Service {
    fn check(&self) -> Result<(), Status> {
        match &*self.refuses.lock().unwrap() {
            Some(status) => Err(Status::new(status.code(), status.message())),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Worker for Service {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        Ok(Response::new(self.description.lock().unwrap().clone()))
    }

    async fn get_text_files(
        &self,
        _: Request<GetTextFilesRequest>,
    ) -> Result<Response<TextFiles>, Status> {
        let content = self.content.clone().into();
        Ok(Response::new(TextFiles { content }))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.description.lock().unwrap().draining = true;
        Ok(Response::new(DrainResponse::default()))
    }
}

#[tonic::async_trait]
impl Prefill for Service {
    type RunStream = ReceiverStream<Result<PrefillEvent, Status>>;

    async fn run(
        &self,
        request: Request<PrefillRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        self.check()?;
        let (events, stream) = mpsc::channel(4);
        let request = request.into_inner();
        let call = PrefillCall { request, events };
        self.prefill_calls.send(call).await.expect("the test reads");
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Decode for Service {
    type RunStream = ReceiverStream<Result<DecodeEvent, Status>>;

    async fn run(
        &self,
        request: Request<DecodeRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        self.check()?;
        let (events, stream) = mpsc::channel(4);
        let request = request.into_inner();
        let call = DecodeCall { request, events };
        self.decode_calls.send(call).await.expect("the test reads");
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
