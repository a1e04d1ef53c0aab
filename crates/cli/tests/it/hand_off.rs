//! What docs/promises.md says of the hand-off from a prefill worker to a decode worker: the real binary with the real
//! model in both roles. The test speaks to them as a coordinator does, and stands in the way of their caches.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lava_proto::v1::{Sampling, TransferStats};
use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::cache_link_server::{CacheLink, CacheLinkServer};
use lava_proto::worker::decode_client::DecodeClient;
use lava_proto::worker::decode_event::Event as Decoded;
use lava_proto::worker::prefill_client::PrefillClient;
use lava_proto::worker::prefill_event::Event as Prefilled;
use lava_proto::worker::ship_message::Part;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::worker_client::WorkerClient;
use lava_proto::worker::{self, Credit, DescribeRequest, Receipt, ShipMessage, ShipReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cluster::{Process, push_settings};
use crate::{SMOLLM2, model};

const PATIENCE: Duration = Duration::from_secs(60);

/// Longest message of a link, as both workers allow it.
const MESSAGE_BYTES_MAX: usize = (1 << 20) + (1 << 16);

/// Both workers.
struct Workers {
    prefill: Process,
    decode: Process,
    model: worker::Model,
    _folder: tempfile::TempDir,
}

/// A request on its way.
struct Asked {
    attempt: worker::Attempt,
    prompt: Vec<u32>,
    ticket: Vec<u8>,
    events: Streaming<worker::DecodeEvent>,
}

/// An answer and what its cache cost.
#[derive(Debug)]
struct Answered {
    ids: Vec<u32>,
    stats: TransferStats,
}

impl Workers {
    async fn start(decode_settings: &[&str]) -> Workers {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("model.path={:?}", model(SMOLLM2).display().to_string());
        let start = |role: &str, settings: &[&str]| {
            let mut arguments = vec![role.to_owned()];
            push_settings(&mut arguments, &["listen.address=\"127.0.0.1:0\"", &path]);
            push_settings(&mut arguments, settings);
            Process::start_small(folder.path(), role, &arguments)
        };
        let mut prefill = start("prefill", &[]);
        let mut decode = start("decode", decode_settings);
        prefill.ready();
        decode.ready();
        let address = format!("http://{}", decode.address());
        let mut client = WorkerClient::connect(address).await.unwrap();
        let said = client.describe(DescribeRequest::default()).await.unwrap();
        Workers {
            prefill,
            decode,
            model: said.into_inner().model.unwrap(),
            _folder: folder,
        }
    }

    /// Entries of a cache that keeps all of a prompt.
    fn tables(&self) -> u64 {
        u64::from(self.model.layers) * u64::from(self.model.kv_heads)
    }

    /// Makes a reservation.
    async fn reserve(&self, prompt: &[u32], budget: u32, max_tokens: u32) -> Result<Asked, Status> {
        let kept = u64::from(budget).min(prompt.len() as u64);
        let attempt = worker::Attempt {
            request_id: "test".into(),
            fingerprint: self.model.fingerprint.clone(),
            prompt_digest: lava_proto::prompt_digest(prompt).to_vec().into(),
            tokens: prompt.len() as u32,
            policy: "lava-peaks".into(),
            budget,
            row_format: "f16".into(),
            sampling: Some(Sampling::default()),
            max_tokens,
            deadline_ms: PATIENCE.as_millis() as u64,
            ..Default::default()
        };
        let request = worker::DecodeRequest {
            attempt: Some(attempt.clone()),
            rows_max: self.tables() * (kept + u64::from(max_tokens) - 1),
            ..Default::default()
        };
        let address = format!("http://{}", self.decode.address());
        let mut client = DecodeClient::connect(address).await.unwrap();
        let mut events = client.run(request).await?.into_inner();
        let Decoded::Reserved(reserved) = next_decoded(&mut events).await? else {
            panic!("the first event is the reservation");
        };
        Ok(Asked {
            attempt,
            prompt: prompt.to_vec(),
            ticket: reserved.ticket.to_vec(),
            events,
        })
    }

    /// Runs the prompt of a reservation; its cache goes to `link`.
    async fn prefill(&self, asked: &Asked, link: &str) -> Streaming<worker::PrefillEvent> {
        let address = format!("http://{}", self.prefill.address());
        let mut client = PrefillClient::connect(address).await.unwrap();
        let request = worker::PrefillRequest {
            attempt: Some(asked.attempt.clone()),
            prompt: lava_proto::ids_to_bytes(&[&asked.prompt]).into(),
            ticket: asked.ticket.clone().into(),
            link_address: link.to_owned(),
        };
        client.run(request).await.unwrap().into_inner()
    }

    /// The whole way of a request.
    async fn ask(&self, prompt: &[u32], budget: u32, max_tokens: u32, link: &str) -> Answered {
        let mut asked = self.reserve(prompt, budget, max_tokens).await.unwrap();
        let mut prefilled = self.prefill(&asked, link).await;
        let mut ids = vec![first_token(&mut prefilled).await];
        let stats = done(&mut prefilled).await;
        ids.extend(asked.rest().await.unwrap());
        Answered { ids, stats }
    }

    /// A client of the port that caches come in by.
    async fn link(&self) -> CacheLinkClient<Channel> {
        let address = format!("http://{}", self.decode.address());
        let client = CacheLinkClient::connect(address).await.unwrap();
        client.max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Waits until the decode worker holds nothing.
    async fn free(&self) {
        let began = Instant::now();
        while self.decode.metric("lava_decode_pages_reserved") != Some(0.0) {
            assert!(began.elapsed() < PATIENCE, "pages stay reserved");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Asked {
    /// The tokens after the first one.
    async fn rest(&mut self) -> Result<Vec<u32>, Status> {
        let mut ids = Vec::new();
        loop {
            match next_decoded(&mut self.events).await? {
                Decoded::Tokens(tokens) => ids.extend(tokens.tokens.iter().map(|token| token.id)),
                Decoded::Done(_) => return Ok(ids),
                Decoded::FirstStep(_) => {}
                Decoded::Reserved(_) => panic!("a second reservation"),
            }
        }
    }
}

async fn next_decoded(events: &mut Streaming<worker::DecodeEvent>) -> Result<Decoded, Status> {
    let event = timeout(PATIENCE, events.message()).await.expect("an event");
    Ok(event?.expect("the stream goes on").event.unwrap())
}

async fn next_prefilled(events: &mut Streaming<worker::PrefillEvent>) -> Prefilled {
    let event = timeout(PATIENCE, events.message()).await.expect("an event");
    event.unwrap().expect("the stream goes on").event.unwrap()
}

async fn first_token(events: &mut Streaming<worker::PrefillEvent>) -> u32 {
    match next_prefilled(events).await {
        Prefilled::FirstToken(first) => first.token.unwrap().id,
        Prefilled::Done(_) => panic!("the first event is the first token"),
    }
}

async fn done(events: &mut Streaming<worker::PrefillEvent>) -> TransferStats {
    match next_prefilled(events).await {
        Prefilled::Done(done) => done.stats.unwrap(),
        Prefilled::FirstToken(_) => panic!("a second first token"),
    }
}

fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens)
        .map(|i| 500 + (i * 31 + seed * 977) % 20_000)
        .collect()
}

/// In place of a decode worker: takes a cache in and keeps its messages.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<ShipMessage>>>);

impl Recorder {
    /// Where it listens.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = CacheLinkServer::new(self.clone());
        let service = service.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn take(&self) -> Vec<ShipMessage> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tonic::async_trait]
impl CacheLink for Recorder {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<worker::LaneReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(2);
        let recorder = self.clone();
        tokio::spawn(async move {
            let mut messages = request.into_inner();
            let reply = |part| Ok(ShipReply { part: Some(part) });
            let leave = Credit {
                frames: 1 << 20,
                ..Default::default()
            };
            let _ = replies.send(reply(Reply::Credit(leave))).await;
            while let Ok(Some(message)) = messages.message().await {
                recorder.0.lock().unwrap().push(message.clone());
                if let Some(Part::Seal(seal)) = message.part {
                    let receipt = Receipt {
                        rows: seal.rows.iter().map(|&rows| u64::from(rows)).sum(),
                        checksum: seal.checksum,
                    };
                    let _ = replies.send(reply(Reply::Receipt(receipt))).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lane(
        &self,
        _: Request<Streaming<worker::LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        Err(Status::unimplemented("no lanes here"))
    }
}

/// A transfer that the test sends itself.
struct Sending {
    messages: mpsc::Sender<ShipMessage>,
    replies: Streaming<ShipReply>,
}

impl Sending {
    async fn open(link: &mut CacheLinkClient<Channel>, header: ShipMessage) -> Sending {
        let (messages, stream) = mpsc::channel(1);
        messages.send(header).await.unwrap();
        let replies = link.ship(ReceiverStream::new(stream)).await.unwrap();
        Sending {
            messages,
            replies: replies.into_inner(),
        }
    }

    /// Sends on, as far as the other end takes it: a frame for each leave.
    async fn send(&mut self, messages: &[ShipMessage]) -> Result<Option<Receipt>, Status> {
        let mut leave = 0;
        for message in messages {
            while leave == 0 && matches!(message.part, Some(Part::Frame(_))) {
                match self.reply().await? {
                    Some(Reply::Credit(credit)) => leave += credit.frames,
                    other => panic!("leave was due: {other:?}"),
                }
            }
            leave = leave.saturating_sub(1);
            if self.messages.send(message.clone()).await.is_err() {
                break;
            }
            if matches!(message.part, Some(Part::Seal(_))) {
                loop {
                    match self.reply().await? {
                        Some(Reply::Receipt(receipt)) => return Ok(Some(receipt)),
                        Some(Reply::Credit(_)) => {}
                        None => return Ok(None),
                    }
                }
            }
        }
        Ok(None)
    }

    async fn reply(&mut self) -> Result<Option<Reply>, Status> {
        let reply = timeout(PATIENCE, self.replies.message()).await;
        Ok(reply
            .expect("a reply or an end")?
            .and_then(|reply| reply.part))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_4_late_and_repeated_writes_never_reach_another_requests_cache() {
    // Room for one of these requests, so that the second one gets the pages of the first one.
    let workers = Workers::start(&["decode.cache_bytes=8000000"]).await;
    let recorder = Recorder::default();
    let recording = recorder.start().await;
    let direct = workers.decode.address();
    let (first, second) = (prompt(1, 200), prompt(2, 200));
    let alone = workers.ask(&second, 1024, 16, &direct).await;
    workers.free().await;

    // A transfer, half of which has arrived when its caller leaves.
    let late = workers.reserve(&first, 1024, 16).await.unwrap();
    let full = workers.reserve(&second, 1024, 16).await.err().unwrap();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    let mut prefilled = workers.prefill(&late, &recording).await;
    first_token(&mut prefilled).await;
    done(&mut prefilled).await;
    let late_messages = recorder.take();
    let half = late_messages.len() / 2;
    assert!(half > 2, "{} messages", late_messages.len());
    let mut link = workers.link().await;
    let mut sending = Sending::open(&mut link, late_messages[0].clone()).await;
    sending.send(&late_messages[1..half]).await.unwrap();
    drop(late);
    workers.free().await;

    // Its pages are another request's now; the rest comes, and then all of it again.
    let mut other = workers.reserve(&second, 1024, 16).await.unwrap();
    let rest = sending.send(&late_messages[half..]).await;
    assert!(!matches!(rest, Ok(Some(_))), "a late write got a receipt");
    let mut again = Sending::open(&mut link, late_messages[0].clone()).await;
    let refused = again.reply().await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let mut prefilled = workers.prefill(&other, &recording).await;
    let mut ids = vec![first_token(&mut prefilled).await];
    done(&mut prefilled).await;
    let messages = recorder.take();
    let mut sending = Sending::open(&mut link, messages[0].clone()).await;
    let receipt = sending.send(&messages[1..]).await.unwrap();
    assert!(receipt.is_some(), "the cache is whole");
    // It is repeated while its sequence runs.
    let mut again = Sending::open(&mut link, messages[0].clone()).await;
    let refused = again.reply().await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    ids.extend(other.rest().await.unwrap());
    assert_eq!(ids, alone.ids);
    workers.free().await;
}

/// A way to the decode worker that counts bytes, and may hold them.
struct Proxy {
    address: String,
    /// Bytes that came from the prefill worker.
    bytes: watch::Receiver<u64>,
    /// As many of them may pass.
    pass: watch::Sender<u64>,
}

impl Proxy {
    async fn start(to: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (counted, bytes) = watch::channel(0);
        let (pass, passes) = watch::channel(u64::MAX);
        let counted = Arc::new(counted);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let target = TcpStream::connect(&to).await.unwrap();
                let (mut from_prefill, mut to_prefill) = from.into_split();
                let (mut from_decode, mut to_decode) = target.into_split();
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_decode, &mut to_prefill).await },
                );
                let (counted, mut passes) = (Arc::clone(&counted), passes.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 12];
                    while let Ok(read @ 1..) = from_prefill.read(&mut buffer).await {
                        counted.send_modify(|bytes| *bytes += read as u64);
                        let so_far = *counted.borrow();
                        let _ = passes.wait_for(|most| so_far <= *most).await;
                        if to_decode.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Proxy {
            address,
            bytes,
            pass,
        }
    }

    fn bytes(&self) -> u64 {
        *self.bytes.borrow()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_the_first_token_waits_for_no_transfer_and_is_not_computed_again() {
    const TOKENS: u32 = 12;
    let workers = Workers::start(&[]).await;
    let proxy = Proxy::start(workers.decode.address()).await;
    let ids = prompt(3, 700);
    let count = |process: &Process, name: &str| process.metric(name).unwrap();
    let free = workers.ask(&ids, 128, TOKENS, &proxy.address).await;
    let stats = free.stats;
    println!("{stats:?}");
    // Most rows leave while later layers are computed.
    assert!(stats.early_share > 0.5, "{}", stats.early_share);
    assert!(stats.early_share_bound > 0.9, "{}", stats.early_share_bound);

    // The last fifth of the same cache is held on its way.
    let bytes = proxy.bytes();
    proxy.pass.send(bytes + bytes * 4 / 5).unwrap();
    let steps = count(&workers.decode, "lava_decode_steps_total");
    let mut asked = workers.reserve(&ids, 128, TOKENS).await.unwrap();
    let mut prefilled = workers.prefill(&asked, &proxy.address).await;
    let first = first_token(&mut prefilled).await;
    assert_eq!(count(&workers.decode, "lava_decode_transfers"), 1.0);
    assert_eq!(count(&workers.prefill, "lava_prefill_transfers"), 1.0);
    assert_eq!(count(&workers.decode, "lava_decode_steps_total"), steps);
    proxy.pass.send(u64::MAX).unwrap();
    done(&mut prefilled).await;
    let rest = asked.rest().await.unwrap();
    assert_eq!([vec![first], rest].concat(), free.ids);
    // A step for each token but the first, which prefill made.
    let made = count(&workers.decode, "lava_decode_steps_total") - steps;
    assert_eq!(made, f64::from(TOKENS - 1));
    // Each prompt passed the model once, less the front that the second one had in common with the first.
    let computed = count(&workers.prefill, "lava_prefill_prompt_tokens_total")
        + count(&workers.prefill, "lava_prefill_reused_tokens_total");
    assert_eq!(computed, 2.0 * ids.len() as f64);
    workers.free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_13_what_is_told_of_a_transfer_is_what_went_over_the_socket() {
    let workers = Workers::start(&[]).await;
    let proxy = Proxy::start(workers.decode.address()).await;
    let ids = prompt(4, 600);
    let began = Instant::now();
    let answered = workers.ask(&ids, 128, 4, &proxy.address).await;
    let wall_ms = began.elapsed().as_secs_f64() * 1e3;
    let t = answered.stats;
    println!(
        "{t:?}, {} bytes over the socket in {wall_ms:.1} ms",
        proxy.bytes()
    );
    // Headers of HTTP/2 and gRPC, and the seal, are a few percent.
    let (least, most) = (t.shipped_bytes, t.shipped_bytes * 105 / 100 + (16 << 10));
    assert!(
        (least..=most).contains(&proxy.bytes()),
        "{} bytes",
        proxy.bytes()
    );
    // Keys and values of two bytes an element.
    let shape = &workers.model;
    let entry = u64::from(shape.head_dim) * 2 * 2;
    assert_eq!(t.full_bytes, workers.tables() * ids.len() as u64 * entry);
    assert_eq!(t.row_bytes, t.rows_kept * entry);
    assert!(
        t.rows_kept <= workers.tables() * 128,
        "{} rows",
        t.rows_kept
    );
    assert!(t.row_bytes < t.shipped_bytes && t.shipped_bytes < t.full_bytes / 4);
    // No stage takes nothing and none is longer than the whole. Prefill ends with the logits, and the wait for the
    // receipt begins before them, after the last layer: both together cover the transfer.
    for part in [
        t.prefill_ms,
        t.scoring_ms,
        t.packing_ms,
        t.transfer_ms,
        t.receipt_ms,
    ] {
        assert!(part > 0.0, "{t:?}");
    }
    assert!(
        t.queue_ms + t.prefill_ms <= wall_ms && t.transfer_ms <= t.prefill_ms + t.receipt_ms,
        "{t:?} of {wall_ms} ms"
    );
    assert!(
        t.receipt_ms <= t.transfer_ms && t.transfer_ms <= wall_ms,
        "{t:?}"
    );
    assert!(t.scoring_ms + t.packing_ms <= t.prefill_ms, "{t:?}");
    // No loopback does 50 GB/s.
    let bytes_per_second = t.shipped_bytes as f64 / (t.transfer_ms / 1e3);
    assert!(bytes_per_second < 50e9, "{bytes_per_second} bytes/s");
    // What both workers have counted.
    let sent = |name| workers.prefill.metric(name).unwrap();
    assert_eq!(
        sent("lava_prefill_shipped_bytes_total"),
        t.shipped_bytes as f64
    );
    assert_eq!(sent("lava_prefill_full_bytes_total"), t.full_bytes as f64);
    let received = workers.decode.metric("lava_decode_received_bytes_total");
    assert_eq!(received, Some(t.shipped_bytes as f64));
    workers.free().await;
}
