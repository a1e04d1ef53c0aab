//! Transfers whose payloads go over a lane, and every way in which it can fail them.

use std::sync::Arc;
use std::time::Duration;

use lava_kv::{Header, WireError};
use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::lane_message::Part as Message;
use lava_proto::worker::{LaneMessage, LaneOpening};
use lava_test_support::{FabricFaults, FakeFabric, Fault, Switch};
use lava_transfer::{LaneCounts, LaneSetup, Lanes, Link, Part, ReceiveError, ShipError};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::receiver::{Behaviour, Ending, serve};
use crate::sender::{PATIENCE, ROWS, header, parts, send};

/// For a payload, where something goes wrong; faults that never complete cost as much. A busy machine may take it for nothing.
const LANE_TIMEOUT: Duration = Duration::from_millis(400);

/// A sender and a receiver with a lane between them.
struct Pair {
    link: Link,
    ended: mpsc::Receiver<Ending>,
    sender: Arc<LaneCounts>,
    receiver: Arc<LaneCounts>,
    fabric: Arc<FakeFabric>,
    process: Process,
}

/// The receiver's; drop closes its sockets, as those of a process that is killed are.
struct Process(Option<Runtime>);

impl Process {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self(Some(runtime.unwrap()))
    }

    /// Runs what spawns tasks.
    async fn run<T: Send + 'static>(&self, body: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.0.as_ref().unwrap();
        runtime.spawn(body).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

fn setup(fabric: &Arc<FakeFabric>, incarnation: &str) -> LaneSetup {
    LaneSetup {
        fabric: fabric.clone(),
        incarnation: incarnation.into(),
        timeout: LANE_TIMEOUT,
        counts: Arc::default(),
    }
}

impl Pair {
    async fn new(sender: FabricFaults, receiver: FabricFaults) -> Self {
        Self::with(sender, receiver, LANE_TIMEOUT).await
    }

    /// One in which nothing goes wrong, however busy the machine is.
    async fn whole() -> Self {
        Self::with(FabricFaults::default(), FabricFaults::default(), PATIENCE).await
    }

    async fn with(sender: FabricFaults, receiver: FabricFaults, timeout: Duration) -> Self {
        let switch = Arc::new(Switch::default());
        let fabric = FakeFabric::new(&switch, sender);
        let mut sends = setup(&fabric, "prefill");
        let mut receives = setup(&FakeFabric::new(&switch, receiver), "decode");
        (sends.timeout, receives.timeout) = (timeout, timeout);
        let (sender, receiver) = (Arc::clone(&sends.counts), Arc::clone(&receives.counts));
        let process = Process::start();
        let serving = serve(Behaviour::default(), Lanes::new(receives));
        let (address, ended) = process.run(serving).await;
        let link = Link::new(&address.to_string(), PATIENCE, Some(&sends)).unwrap();
        Self {
            link,
            ended,
            sender,
            receiver,
            fabric,
            process,
        }
    }

    /// Ships one cache, which must arrive: the receiver checks every byte of it.
    async fn ship(&mut self, ticket: u8) {
        let (receipt, _) = send(&self.link, &header(ticket), parts(header(ticket)), PATIENCE).await;
        let ended = timeout(PATIENCE, self.ended.recv()).await.unwrap().unwrap();
        assert_eq!(receipt.unwrap(), ended.unwrap());
    }

    /// The first transfer opens the lane and does not wait for it.
    async fn open(&mut self) {
        self.ship(1).await;
        assert_eq!(self.sender.payload_bytes(), 0);
        until(|| self.sender.open() == 1 && self.receiver.open() == 1).await;
    }
}

async fn until(mut what: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < patience, "it does not come about");
        sleep(Duration::from_millis(5)).await;
    }
}

fn payload_bytes(header: Header) -> u64 {
    let parts = parts(header);
    let bytes = parts.iter().map(|part| match part {
        Part::Frame(frame) => frame.payload.len() as u64,
        Part::Seal(_) => 0,
    });
    bytes.sum()
}

fn frames() -> usize {
    parts(header(1)).len() - 1
}

#[tokio::test]
async fn payloads_go_over_a_lane_once_it_is_open() {
    let mut pair = Pair::whole().await;
    pair.open().await;
    pair.ship(2).await;
    let bytes = payload_bytes(header(2));
    assert_eq!(pair.receiver.payload_bytes(), bytes);
    // The receipt may be here before the sender's end of the lane has seen the last one leave.
    until(|| pair.sender.payload_bytes() == bytes).await;
    assert_eq!(pair.sender.fallen_back(), 0);
}

#[tokio::test]
async fn transfers_at_once_share_a_lane() {
    let mut pair = Pair::whole().await;
    pair.open().await;
    let sends: Vec<_> = (2..12)
        .map(|ticket| {
            let link = pair.link.clone();
            tokio::spawn(async move {
                let header = header(ticket);
                send(&link, &header, parts(header), PATIENCE).await.0
            })
        })
        .collect();
    for sent in sends {
        assert_eq!(sent.await.unwrap().unwrap().rows, ROWS as u64);
    }
    assert_eq!(pair.receiver.payload_bytes(), 10 * payload_bytes(header(2)));
}

/// Every payload in turn is lost in every way; a transfer notices and loses nothing.
#[tokio::test]
async fn a_transfer_goes_on_without_a_lane_that_breaks_at_any_payload() {
    for at in 0..frames() {
        for fault in [Fault::Fails, Fault::NeverCompletes] {
            let fault = Some((at, fault));
            let faults = FabricFaults::default();
            for (sender, receiver) in [
                (
                    FabricFaults {
                        send: fault,
                        ..faults
                    },
                    faults,
                ),
                (
                    faults,
                    FabricFaults {
                        receive: fault,
                        ..faults
                    },
                ),
            ] {
                let mut pair = Pair::new(sender, receiver).await;
                pair.open().await;
                pair.ship(2).await;
                assert_eq!(pair.sender.fallen_back(), 1, "{sender:?} {receiver:?}");
                until(|| pair.sender.open() == 0 && pair.receiver.open() == 0).await;
                assert_eq!(pair.sender.broken(), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_broken_lane_is_opened_again_after_a_pause() {
    let faults = FabricFaults {
        send: Some((0, Fault::Fails)),
        ..Default::default()
    };
    let mut pair = Pair::new(faults, FabricFaults::default()).await;
    pair.open().await;
    pair.ship(2).await;
    let mut ticket = 3;
    let patience = Instant::now() + PATIENCE;
    while pair.sender.payload_bytes() == 0 {
        assert!(Instant::now() < patience, "the lane stays closed");
        pair.ship(ticket).await;
        ticket = ticket.checked_add(1).unwrap_or(3);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(pair.sender.fallen_back(), 1);
}

#[tokio::test]
async fn transfers_do_without_a_lane_that_cannot_be_opened() {
    let fine = FabricFaults::default();
    let fails = FabricFaults {
        joins_from: Some((0, Fault::Fails)),
        ..fine
    };
    let hangs = FabricFaults {
        joins_from: Some((0, Fault::NeverCompletes)),
        ..fine
    };
    let other = FabricFaults {
        version: Some(22000),
        ..fine
    };
    for (sender, receiver) in [
        (fails, fine),
        (fine, fails),
        (hangs, fine),
        (fine, hangs),
        (other, fine),
    ] {
        let mut pair = Pair::new(sender, receiver).await;
        pair.ship(1).await;
        until(|| pair.sender.refused() == 1 && pair.receiver.refused() == 1).await;
        pair.ship(2).await;
        assert_eq!(
            pair.sender.payload_bytes() + pair.receiver.payload_bytes(),
            0
        );
        assert_eq!((pair.sender.open(), pair.receiver.open()), (0, 0));
    }
}

#[tokio::test]
async fn a_receiver_without_lanes_is_shipped_to_as_before() {
    let switch = Arc::new(Switch::default());
    let sends = setup(
        &FakeFabric::new(&switch, FabricFaults::default()),
        "prefill",
    );
    let (address, _ended) = serve(Behaviour::default(), Lanes::none()).await;
    let link = Link::new(&address.to_string(), PATIENCE, Some(&sends)).unwrap();
    for ticket in 1..4 {
        let (receipt, _) = send(&link, &header(ticket), parts(header(ticket)), PATIENCE).await;
        receipt.unwrap();
        until(|| sends.counts.refused() == 1).await;
    }
    assert_eq!(sends.counts.open(), 0);
}

#[tokio::test]
async fn a_damaged_frame_over_a_lane_ends_its_transfer_and_not_the_lane() {
    let mut pair = Pair::whole().await;
    pair.open().await;
    let mut damaged = parts(header(2));
    let Part::Frame(frame) = &mut damaged[2] else {
        panic!("the third part is a frame");
    };
    let mut payload = frame.payload.to_vec();
    payload[5] ^= 1;
    frame.payload = payload.into();
    let (result, _) = send(&pair.link, &header(2), damaged, PATIENCE).await;
    assert!(matches!(result, Err(ShipError::Refused(_))), "{result:?}");
    let ended = timeout(PATIENCE, pair.ended.recv()).await.unwrap().unwrap();
    let corrupt = matches!(
        ended,
        Err(ReceiveError::Wire(WireError::Corrupt { sequence: 2, .. }))
    );
    assert!(corrupt, "{ended:?}");
    pair.ship(3).await;
    assert_eq!((pair.sender.open(), pair.sender.fallen_back()), (1, 0));
}

#[tokio::test]
async fn a_transfer_that_is_given_up_leaves_the_lane_to_others() {
    let mut pair = Pair::whole().await;
    pair.open().await;
    for ticket in 2..8 {
        let (queue, waiting) = mpsc::channel(64);
        // One more frame than the last time, and no seal.
        for part in parts(header(ticket)).into_iter().take(ticket as usize - 1) {
            queue.try_send(part).unwrap();
        }
        let sent = lava_transfer::Sent::default();
        let header = header(ticket);
        let deadline = Instant::now() + PATIENCE;
        let shipping = lava_transfer::ship(&pair.link, &header, waiting, &sent, deadline);
        let soon = Duration::from_millis(30);
        assert!(timeout(soon, shipping).await.is_err(), "there is no seal");
        let ended = timeout(PATIENCE, pair.ended.recv()).await.unwrap().unwrap();
        assert!(ended.is_err());
    }
    pair.ship(9).await;
    assert_eq!((pair.sender.open(), pair.sender.fallen_back()), (1, 0));
}

/// The receiver's process is gone between the header and the seal: the sender hears it, long before its deadline.
#[tokio::test]
async fn a_receiver_that_dies_between_header_and_seal_ends_the_transfer_and_the_lane() {
    let mut pair = Pair::new(FabricFaults::default(), FabricFaults::default()).await;
    pair.open().await;
    let before = pair.fabric.sends();
    let (queue, waiting) = mpsc::channel(64);
    let mut all = parts(header(2)).into_iter();
    for part in all.by_ref().take(2) {
        queue.try_send(part).unwrap();
    }
    let link = pair.link.clone();
    let sent = lava_transfer::Sent::default();
    let shipping = tokio::spawn(async move {
        let deadline = Instant::now() + 3 * PATIENCE;
        lava_transfer::ship(&link, &header(2), waiting, &sent, deadline).await
    });
    until(|| pair.fabric.sends() == before + 2).await;
    drop(pair.process);
    let ended = timeout(PATIENCE, shipping)
        .await
        .expect("the sender hears of it")
        .unwrap();
    assert!(matches!(ended, Err(ShipError::Link(_))), "{ended:?}");
    until(|| pair.sender.open() == 0).await;
    drop((queue, all));
}

/// The sender's process is gone: the receiver's end closes, and its place is free.
#[tokio::test]
async fn a_sender_that_dies_leaves_no_lane_behind() {
    let mut pair = Pair::new(FabricFaults::default(), FabricFaults::default()).await;
    pair.open().await;
    drop(pair.link);
    until(|| pair.receiver.open() == 0 && pair.sender.open() == 0).await;
}

/// A sender of another make.
async fn open_by_hand(opening: Option<Message>) -> tonic::Status {
    let switch = Arc::new(Switch::default());
    let receives = setup(&FakeFabric::new(&switch, FabricFaults::default()), "decode");
    let (address, _ended) = serve(Behaviour::default(), Lanes::new(receives)).await;
    let mut client = CacheLinkClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let (queue, messages) = mpsc::channel(2);
    if let Some(opening) = opening {
        let opening = LaneMessage {
            part: Some(opening),
        };
        queue.try_send(opening).unwrap();
    }
    let mut replies = client
        .lane(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    loop {
        match timeout(PATIENCE, replies.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the receiver gave no reason"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn what_is_no_opening_is_refused_with_its_reason() {
    let opening = LaneOpening {
        unique_id: vec![7; 128].into(),
        nccl_version: 22809,
        incarnation: "prefill".into(),
    };
    let of = |change: &dyn Fn(&mut LaneOpening)| {
        let mut opening = opening.clone();
        change(&mut opening);
        Some(Message::Opening(opening))
    };
    for (opening, expected) in [
        (None, "said nothing for 400 ms"),
        (
            Some(Message::Payload(Default::default())),
            "sent a payload, expected the opening of a lane",
        ),
        (
            of(&|o| o.nccl_version = 22000),
            "the sender has NCCL 22000, this worker 22809",
        ),
        (
            of(&|o| o.unique_id = vec![7; 127].into()),
            "unique_id has 127 bytes, expected 128",
        ),
        // Nobody joins.
        (of(&|_| ()), "joining took longer than 400 ms"),
    ] {
        let status = open_by_hand(opening).await;
        assert!(status.message().contains(expected), "{status}");
    }
}
