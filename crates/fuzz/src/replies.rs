//! A transfer as its sender sees it: what a decode worker answers to `CacheLink.Ship`, over a connection of HTTP/2, and what a prefill
//! worker makes of it.
//!
//! An input is the status that ends the call, and then answers: a byte whose lowest bit says whether the receiver first takes in all
//! that the sender may send by then, and a message with its length before it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lava_kv::{Frame, Header, Seal};
use lava_node::World;
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::{Credit, LaneMessage, LaneReply, Receipt, ShipMessage, ShipReply};
use lava_transfer::{Link, Part, Sent, ShipError, ship};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cursor::{Cursor, write_part};
use crate::{attempts, memory};

/// Time that nothing takes here.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Turns that a sender has, to send what it should not.
const TURNS: usize = 8;
/// Both ends of a connection.
const CONNECTION_BYTES: usize = 2 << 20;

/// Answers a real sender, and looks at what it sent and returned.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let code = Code::from_i32(i32::from(rest.u8()) % 17);
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let waits = rest.u8() & 1 == 1;
        if let Ok(reply) = ShipReply::decode(rest.part()) {
            answers.push(Answer { waits, reply });
        }
    }
    let script = Arc::new(Script {
        answers,
        code,
        seen: Mutex::default(),
        is_overdrawn: AtomicBool::new(false),
    });
    // Built before anything is measured.
    let _ = transfer();
    let most = memory::SLACK_BYTES + CONNECTION_BYTES + 64 * input.len();
    let ended = memory::within(most, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without a driver");
        runtime.block_on(send(&script))
    });
    check(&script, &ended);
}

async fn send(script: &Arc<Script>) -> Result<lava_kv::Receipt, ShipError> {
    let (header, frames, seal) = transfer();
    let (sender, receiver) = tokio::io::duplex(1 << 20);
    let service = lava_transfer::server(Receiver(Arc::clone(script)));
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(receiver));
    let served = Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    let served = tokio::spawn(served);
    let connection = Mutex::new(Some(sender));
    let world = World::simulated(1, None, move |_| {
        let connection = connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        async move { connection.ok_or_else(|| std::io::ErrorKind::ConnectionRefused.into()) }
    });
    let link = Link::in_world(&world, "receiver:1", TIMEOUT, None);
    let link = link.expect("the address is one");
    let (parts, queued) = mpsc::channel(frames.len() + 1);
    let all = frames.iter().cloned().map(Part::Frame);
    for part in all.chain([Part::Seal(seal.clone())]) {
        parts.try_send(part).expect("there is room for all");
    }
    let sent = Sent::default();
    let shipping = ship(&link, header, queued, &sent, Instant::now() + TIMEOUT);
    let ended = timeout(2 * TIMEOUT, shipping).await;
    let ended = ended.expect("a transfer ends by its deadline");
    let bytes: usize = frames.iter().map(|frame| frame.payload.len()).sum();
    assert!(sent.bytes() <= bytes as u64);
    drop((link, parts));
    served.abort();
    ended
}

/// The sender has kept to its leave, and takes a cache for received if, and only if, it was told so after it had sent all.
fn check(script: &Script, ended: &Result<lava_kv::Receipt, ShipError>) {
    let (header, frames, seal) = transfer();
    let seen = script.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((first, rest)) = seen.split_first() else {
        panic!("the sender said nothing: {ended:?}");
    };
    assert!(matches!(first, Message::Header(first) if first.ticket[..] == header.ticket.0));
    for (index, message) in rest.iter().enumerate() {
        match message {
            Message::Frame(frame) => {
                let expected = &frames[index];
                assert_eq!(frame.sequence, expected.sequence);
                assert!(frame.payload == expected.payload && !frame.by_lane);
            }
            Message::Seal(sent) => {
                assert_eq!((index, sent.checksum), (frames.len(), seal.checksum));
            }
            Message::Header(_) => panic!("a second header"),
        }
    }
    assert!(!script.is_overdrawn.load(Ordering::Relaxed), "no leave");
    let credit = script.credit(script.answers.len());
    assert!(rest.len() <= credit as usize, "{} parts", rest.len());
    match (script.expected(frames.len()), ended) {
        (Expected::Receipt(expected), Ok(receipt)) => {
            let found = (receipt.rows, receipt.checksum);
            assert_eq!(found, (expected.rows, expected.checksum));
        }
        (Expected::Error, Err(error)) => {
            let was_said = script.code == Code::DeadlineExceeded;
            assert!(was_said || !matches!(error, ShipError::Deadline), "late");
        }
        (Expected::Either, _) => {}
        (expected, ended) => panic!("{expected:?}, found {ended:?}"),
    }
}

/// A real transfer.
fn transfer() -> &'static (Header, Vec<Frame>, Seal) {
    static TRANSFER: OnceLock<(Header, Vec<Frame>, Seal)> = OnceLock::new();
    TRANSFER.get_or_init(|| {
        let (attempt, header) = crate::ship::expected();
        let (frames, seal) = attempts::prefill(&attempt);
        (header, frames, seal)
    })
}

#[derive(Debug)]
struct Answer {
    waits: bool,
    reply: ShipReply,
}

#[derive(Debug)]
struct Script {
    answers: Vec<Answer>,
    /// Of the call, in the end.
    code: Code,
    /// What the sender sent.
    seen: Mutex<Vec<Message>>,
    /// Part of it without leave.
    is_overdrawn: AtomicBool,
}

#[derive(Debug)]
enum Expected {
    Receipt(Receipt),
    Error,
    /// The receipt may come before the sender has sent all that it may.
    Either,
}

impl Script {
    /// Parts that the first answers allow.
    fn credit(&self, answers: usize) -> u32 {
        let answers = self.answers[..answers].iter();
        answers.fold(0, |credit, answer| match &answer.reply.part {
            Some(Reply::Credit(more)) => credit.saturating_add(more.frames),
            _ => credit,
        })
    }

    fn expected(&self, frames: usize) -> Expected {
        let mut is_sealed = false;
        for (index, answer) in self.answers.iter().enumerate() {
            let may_seal = self.credit(index) as usize > frames;
            is_sealed |= answer.waits && may_seal;
            match &answer.reply.part {
                Some(Reply::Credit(_)) => {}
                Some(Reply::Receipt(receipt)) if is_sealed => {
                    return Expected::Receipt(*receipt);
                }
                Some(Reply::Receipt(_)) if may_seal => return Expected::Either,
                Some(Reply::Receipt(_)) | None => return Expected::Error,
            }
        }
        Expected::Error
    }
}

/// Answers as told.
struct Receiver(Arc<Script>);

impl Receiver {
    async fn answer(
        script: &Script,
        mut messages: Streaming<ShipMessage>,
        replies: mpsc::Sender<Result<ShipReply, Status>>,
    ) {
        let frames = transfer().1.len();
        for (index, answer) in script.answers.iter().enumerate() {
            // The header, and what there is leave for; the seal takes one more, and uses none up.
            let leave = 1 + (script.credit(index) as usize).min(frames + 1);
            if answer.waits {
                if !script.take_in(&mut messages, leave).await {
                    return;
                }
                script.nothing_more(&mut messages).await;
            }
            if replies.send(Ok(answer.reply)).await.is_err() {
                return;
            }
        }
        if script.code != Code::Ok {
            let status = Status::new(script.code, "of a receiver");
            let _ = replies.send(Err(status)).await;
        }
        drop(replies);
        script.take_in(&mut messages, usize::MAX).await;
    }
}

impl Script {
    /// Reads until there were so many messages; whether there are.
    async fn take_in(&self, messages: &mut Streaming<ShipMessage>, count: usize) -> bool {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen().len() < count {
            let Ok(Some(message)) = messages.message().await else {
                return false;
            };
            seen().push(message.part.expect("a real sender says something"));
        }
        true
    }

    /// The sender, given its turn, has nothing to send without more leave.
    async fn nothing_more(&self, messages: &mut Streaming<ShipMessage>) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        let next = poll_fn(|context| Poll::Ready(pin!(messages.message()).poll(context)));
        if let Poll::Ready(Ok(Some(message))) = next.await {
            // A panic would end this task only.
            self.is_overdrawn.store(true, Ordering::Relaxed);
            let seen = self.seen.lock();
            seen.unwrap_or_else(PoisonError::into_inner)
                .extend(message.part);
        }
    }
}

#[tonic::async_trait]
impl CacheLink for Receiver {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, said) = mpsc::channel(self.0.answers.len() + 1);
        let (script, mut messages) = (Arc::clone(&self.0), request.into_inner());
        // It is on its way before anything can be answered.
        script.take_in(&mut messages, 1).await;
        tokio::spawn(async move { Receiver::answer(&script, messages, replies).await });
        Ok(Response::new(ReceiverStream::new(said)))
    }

    async fn lane(
        &self,
        _: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        panic!("a sender without lanes asks for none");
    }
}

/// Receivers that take all, stop half way, refuse, or are in too much of a hurry.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let credit = |waits: u8, frames| {
        let credit = Credit {
            frames,
            ..Credit::default()
        };
        (waits, Some(Reply::Credit(credit)))
    };
    let receipt = |waits: u8| {
        let receipt = Receipt {
            rows: 40,
            checksum: 5,
        };
        (waits, Some(Reply::Receipt(receipt)))
    };
    let write = |code: Code, answers: &[(u8, Option<Reply>)]| {
        let mut out = vec![i32::from(code) as u8];
        for (waits, part) in answers {
            out.push(*waits);
            let part = *part;
            write_part(&mut out, &ShipReply { part }.encode_to_vec());
        }
        out
    };
    vec![
        ("whole", write(Code::Ok, &[credit(0, 1000), receipt(1)])),
        (
            "step-by-step",
            write(
                Code::Ok,
                &[credit(0, 2), credit(1, 2), credit(1, 1000), receipt(1)],
            ),
        ),
        ("half", write(Code::Ok, &[credit(0, 3)])),
        ("refused", write(Code::FailedPrecondition, &[])),
        (
            "broken",
            write(Code::Unavailable, &[credit(0, 1), credit(1, 1)]),
        ),
        ("early", write(Code::Ok, &[credit(0, 1), receipt(1)])),
        (
            "too-much",
            write(Code::Ok, &[credit(0, u32::MAX), credit(0, 7), receipt(1)]),
        ),
        ("empty", write(Code::Ok, &[credit(0, 1000), (1, None)])),
    ]
}
