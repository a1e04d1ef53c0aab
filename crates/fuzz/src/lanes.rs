//! A lane as its receiver has it: messages of `CacheLink.Lane`, and a transfer whose payloads come over it.
//!
//! An input is two bytes, whether the GPUs can be joined and after how many payloads they break, and then messages, each with its length
//! before it. The transfer has a frame for each payload that is announced with its ticket.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lava_proto::worker::lane_message::Part;
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::{
    Frame, Header, LaneMessage, LaneOpening, LaneReply, Payload, ShipMessage, ShipReply,
};
use lava_transfer::{
    Communicator, Fabric, FabricError, Inbox, LaneCounts, LaneError, LaneSetup, Lanes,
    PAYLOAD_BYTES_MAX, Part as Got, Rank, UNIQUE_ID_BYTES, UniqueId,
};
use prost::Message as _;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use crate::cursor::{Cursor, write_part};
use crate::memory;
use crate::streams::stream;

const VERSION: u32 = 22_000;
/// Of the transfer.
const TICKET: [u8; 16] = [7; 16];
/// Frames that its sender may be ahead.
const CREDIT: u32 = 4;
/// Time that nothing takes here.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a lane as the input says, and looks at what comes over it.
pub(crate) fn run(input: &[u8]) {
    let mut input = Cursor(input);
    let joins = input.u8() & 1 == 0;
    let fabric = Arc::new(Scripted {
        joins,
        works_for: input.u8(),
        over: Arc::default(),
    });
    let mut messages = Vec::new();
    while !input.is_empty() {
        if let Ok(message) = LaneMessage::decode(input.part()) {
            messages.push(message);
        }
    }
    let bytes: usize = messages.iter().map(LaneMessage::encoded_len).sum();
    // Payloads that the transfer has leave for, and the one that comes.
    let payloads = (CREDIT as usize + 2) * PAYLOAD_BYTES_MAX;
    let most = memory::SLACK_BYTES + payloads + 32 * bytes;
    memory::within(most, || receive(&fabric, &messages));
}

fn receive(fabric: &Arc<Scripted>, messages: &[LaneMessage]) {
    let counts = Arc::<LaneCounts>::default();
    let lanes = Lanes::new(LaneSetup {
        fabric: Arc::clone(fabric) as Arc<dyn Fabric>,
        incarnation: "receiver".into(),
        timeout: TIMEOUT,
        counts: Arc::clone(&counts),
    });
    let (replies, mut said) = mpsc::channel(4);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without a driver");
    let (ended, reply) = runtime.block_on(async {
        let lane = lanes.run(stream::<_, LaneReply>(messages), replies);
        let transfer = async {
            let reply: LaneReply = said.recv().await?.expect("it is no status");
            // It joins after it has said so, and only then there is a lane.
            while counts.open() == 0 && !said.is_closed() {
                tokio::task::yield_now().await;
            }
            transfer(&lanes, &reply, messages, &fabric.over).await;
            assert!(said.recv().await.is_none(), "a second reply");
            Some(reply)
        };
        tokio::join!(lane, transfer)
    });
    let expected = expected(fabric, messages);
    let (reached, is_whole) = match &expected {
        Ok(bytes) => (*bytes, true),
        Err(bytes) => (*bytes, false),
    };
    assert_eq!(ended.is_ok(), is_whole, "{ended:?}");
    assert!(counts.payload_bytes() <= reached, "more came than was sent");
    if is_whole {
        assert_eq!(counts.payload_bytes(), reached);
    }
    let was_refused = matches!(
        ended,
        Err(LaneError::Version { .. } | LaneError::NoFabric | LaneError::Full { .. })
    );
    assert!(!(was_refused && reply.is_some()), "a refusal and a lane");
    assert_eq!(counts.open(), 0);
    assert!(counts.refused() + counts.broken() <= 1);
    assert_eq!(counts.refused() + counts.broken() == 0, is_whole);
}

/// What the protocol says of these messages: bytes of payloads if all is right, or the most that can have come before the mistake.
fn expected(fabric: &Scripted, messages: &[LaneMessage]) -> Result<u64, u64> {
    let mut messages = messages.iter().map(|message| message.part.as_ref());
    let Some(Some(Part::Opening(opening))) = messages.next() else {
        return Err(0);
    };
    let is_right = opening.nccl_version == VERSION
        && opening.unique_id.len() == UNIQUE_ID_BYTES
        && fabric.joins;
    if !is_right {
        return Err(0);
    }
    let mut bytes = 0;
    for (index, message) in messages.enumerate() {
        match message {
            Some(Part::Payload(payload))
                if is_announcement(payload) && index < usize::from(fabric.works_for) =>
            {
                bytes += u64::from(payload.bytes);
            }
            _ => return Err(bytes),
        }
    }
    Ok(bytes)
}

fn is_announcement(payload: &Payload) -> bool {
    payload.ticket.len() == TICKET.len() && payload.bytes as usize <= PAYLOAD_BYTES_MAX
}

/// A transfer over the lane, as its decode worker takes it in.
async fn transfer(lanes: &Lanes, reply: &LaneReply, messages: &[LaneMessage], over: &Over) {
    let opened = reply.opened.as_ref().expect("a reply says which lane");
    assert_eq!(opened.incarnation, "receiver");
    // Those before the first mistake, by their places on the lane.
    let payloads = messages.iter().skip(1).map(|message| &message.part);
    let payloads = payloads.map_while(|part| match part {
        Some(Part::Payload(payload)) if is_announcement(payload) => Some(payload),
        _ => None,
    });
    let ours: Vec<(usize, &Payload)> = payloads
        .enumerate()
        .filter(|(_, payload)| payload.ticket == TICKET[..])
        .collect();
    let header = Message::Header(Header {
        wire_version: lava_kv::WIRE_VERSION,
        ticket: TICKET.to_vec().into(),
        prompt_digest: vec![0; 16].into(),
        fingerprint: vec![0; 16].into(),
        layers: 1,
        kv_heads: 1,
        head_dim: 16,
        tokens: 8,
        window_rows: 4,
        row_format: "f16".into(),
        lane: opened.lane.clone(),
        ..Header::default()
    });
    let frames = (0..ours.len() as u32).map(|sequence| {
        Message::Frame(Frame {
            sequence,
            checksum: u64::from(sequence),
            payload: Bytes::new(),
            by_lane: true,
        })
    });
    let parts = [header].into_iter().chain(frames);
    let parts: Vec<ShipMessage> = parts.map(|part| ShipMessage { part: Some(part) }).collect();
    let (replies, _said) = mpsc::channel(parts.len() + 8);
    let opened = Inbox::open(stream::<_, ShipReply>(&parts), replies, lanes).await;
    let (_, mut inbox) = opened.expect("a real sender's header");
    inbox.grant(CREDIT).await;
    over.begin();
    let mut arrived = 0;
    while let Ok(Got::Frame(frame)) = inbox.next().await {
        assert_eq!(frame.sequence, arrived);
        let announced = ours.iter().any(|(place, payload)| {
            payload.sequence == arrived
                && payload.bytes as usize == frame.payload.len()
                && over.was_payload(*place, &frame.payload)
        });
        assert!(announced, "a payload that was not announced for {arrived}");
        arrived += 1;
        inbox.grant(1).await;
    }
}

/// GPUs that are joined and break as told, and what came over them.
#[derive(Debug)]
struct Scripted {
    joins: bool,
    /// Payloads.
    works_for: u8,
    over: Arc<Over>,
}

/// What came over them, as digests. Nothing comes before the transfer has a place for it.
#[derive(Debug, Default)]
struct Over {
    has_begun: Mutex<bool>,
    begun: Condvar,
    payloads: Mutex<Vec<u64>>,
}

impl Over {
    fn begin(&self) {
        *lock(&self.has_begun) = true;
        self.begun.notify_all();
    }

    fn wait(&self) {
        let begun = lock(&self.has_begun);
        let waited = self.begun.wait_while(begun, |begun| !*begun);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn was_payload(&self, place: usize, payload: &[u8]) -> bool {
        lock(&self.payloads).get(place) == Some(&xxh3_64(payload))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broken() -> FabricError {
    FabricError::Failed {
        doing: "a test",
        reason: "told to".into(),
    }
}

impl Fabric for Scripted {
    fn version(&self) -> u32 {
        VERSION
    }

    fn unique_id(&self) -> Result<UniqueId, FabricError> {
        Err(broken())
    }

    fn join(
        &self,
        _: &UniqueId,
        rank: Rank,
        _: Duration,
    ) -> Result<Box<dyn Communicator>, FabricError> {
        assert_eq!(rank, Rank::Receiver);
        match self.joins {
            true => Ok(Box::new(Joined {
                left: self.works_for,
                over: Arc::clone(&self.over),
            })),
            false => Err(broken()),
        }
    }
}

struct Joined {
    left: u8,
    over: Arc<Over>,
}

impl Communicator for Joined {
    fn send(&mut self, _: &[u8], _: Duration) -> Result<(), FabricError> {
        panic!("a receiver sends nothing");
    }

    fn receive(&mut self, out: &mut [u8], _: Duration) -> Result<(), FabricError> {
        self.over.wait();
        self.left = self.left.checked_sub(1).ok_or_else(broken)?;
        let mut payloads = lock(&self.over.payloads);
        // No two are alike.
        let number = (payloads.len() as u64 + 1).to_le_bytes();
        let bytes = out.len().min(number.len());
        out[..bytes].copy_from_slice(&number[..bytes]);
        payloads.push(xxh3_64(out));
        Ok(())
    }
}

/// Lanes that work, break, end early, and serve another transfer besides.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let opening = |version| {
        Part::Opening(LaneOpening {
            unique_id: vec![3; UNIQUE_ID_BYTES].into(),
            nccl_version: version,
            incarnation: "sender".into(),
        })
    };
    let payload = |ticket: u8, sequence, bytes| {
        Part::Payload(Payload {
            ticket: vec![ticket; 16].into(),
            sequence,
            bytes,
        })
    };
    let write = |joins: u8, works_for: u8, parts: &[Part]| {
        let mut out = vec![joins, works_for];
        for part in parts {
            let part = Some(part.clone());
            write_part(&mut out, &LaneMessage { part }.encode_to_vec());
        }
        out
    };
    let whole = [
        opening(VERSION),
        payload(7, 0, 1 << 10),
        payload(9, 0, 5),
        payload(7, 1, 100),
        payload(7, 2, 1 << 20),
    ];
    vec![
        ("whole", write(0, 255, &whole)),
        ("breaks", write(0, 2, &whole)),
        ("is-not-joined", write(1, 255, &whole)),
        ("other-release", write(0, 255, &[opening(21_903)])),
        (
            "opened-twice",
            write(0, 255, &[opening(VERSION), opening(VERSION)]),
        ),
        (
            "too-long",
            write(0, 255, &[opening(VERSION), payload(7, 0, (1 << 20) + 1)]),
        ),
    ]
}
