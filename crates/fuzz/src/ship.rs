//! A transfer as it comes in over a socket: messages of `CacheLink.Ship`, read by the receiver's side of a link and put
//! into the pages of a reservation, as the decode worker does it.
//!
//! An input is messages, each with its length before it; checksums of frames and seals are put right where their
//! lowest bit is not set, so that what lies behind that check is reached.

use bytes::Bytes;
use lava_engine::{PagePool, RaggedCache};
use lava_kv::{Frame, Header, Inbound, Seal, Ticket, WireError};
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::{self as proto, ShipMessage, ShipReply};
use lava_transfer::{Inbox, Lanes, Part};
use lava_worker::Attempt;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::cursor::{Cursor, write_part};
use crate::streams::stream;
use crate::{attempts, memory, toy};

/// Frames that a sender may be ahead.
const CREDIT: u32 = 4;

/// Takes a stream in, and looks at what the reservation holds of it.
pub(crate) fn run(input: &[u8]) {
    let mut input = Cursor(input);
    let mut messages = Vec::new();
    while !input.is_empty() {
        if let Ok(message) = ShipMessage::decode(input.part()) {
            messages.push(message);
        }
    }
    put_checksums_right(&mut messages);
    let most = memory::SLACK_BYTES + 16 * input_bytes(&messages);
    memory::within(most, || receive(&messages));
}

fn input_bytes(messages: &[ShipMessage]) -> usize {
    messages.iter().map(ShipMessage::encoded_len).sum()
}

/// What the reservation of these inputs was made for.
pub(crate) fn expected() -> (Attempt, Header) {
    let loaded = toy::loaded();
    let attempt = Attempt::check(attempts::attempt(40, "lava", "int4"), loaded);
    let attempt = attempt.expect("a real coordinator's attempt");
    let header = attempt.header(Ticket([7; 16]), loaded.fingerprint);
    (attempt, header)
}

/// As `decode_worker::intake` does it.
fn receive(messages: &[ShipMessage]) {
    let (attempt, expected) = expected();
    let page_bytes = toy::PAGE_BYTES as usize;
    let pool = PagePool::new(page_bytes, 1000);
    let reservation = pool.reserve(attempt.pages_max(page_bytes));
    let mut cache = RaggedCache::new(attempt.shape, reservation.expect("the pool is empty"));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without a driver");
    let ended = runtime.block_on(rows(messages, &attempt, &expected, &mut cache));
    assert!(cache.rows() <= attempt.rows_max());
    assert!(cache.pages() <= cache.pages_reserved());
    if let Some(seal) = ended {
        let sealed: usize = seal.rows.iter().map(|&rows| rows as usize).sum();
        assert_eq!(cache.rows(), sealed);
        let shape = *cache.shape();
        for (index, &rows) in seal.rows.iter().enumerate() {
            let table = cache.table(index / shape.kv_heads, index % shape.kv_heads);
            assert_eq!(table.rows(), rows as usize);
            assert!(table.rows() >= shape.window_rows);
        }
    }
    drop(cache);
    assert_eq!(pool.pages_reserved(), 0);
}

/// The seal if the cache is whole.
async fn rows(
    messages: &[ShipMessage],
    attempt: &Attempt,
    expected: &Header,
    cache: &mut RaggedCache,
) -> Option<Seal> {
    // Room for all leave that can be given.
    let (replies, mut said) = mpsc::channel(messages.len() + 8);
    let opened = Inbox::open(stream::<_, ShipReply>(messages), replies, &Lanes::none()).await;
    let (header, mut inbox) = opened.ok()?;
    let Some(ShipMessage {
        part: Some(Message::Header(first)),
    }) = messages.first()
    else {
        panic!("a transfer began without a header");
    };
    check_header(&header, first);
    let mut inbound = Inbound::new(&header, expected, attempt.rows_max() as u64).ok()?;
    assert_eq!(header, *expected, "a foreign transfer was let in");
    inbox.grant(CREDIT).await;
    let mut granted = CREDIT;
    let mut frames = messages.iter().skip(1);
    loop {
        match inbox.next().await.ok()? {
            Part::Frame(frame) => {
                let Some(Message::Frame(sent)) = frames.next().and_then(|m| m.part.as_ref()) else {
                    panic!("a frame that nobody sent");
                };
                assert!((&frame.payload, frame.sequence) == (&sent.payload, sent.sequence));
                assert!(frame.sequence < granted, "a frame without leave");
                let arrived = inbound.accept(&frame).ok()?;
                cache.receive(&arrived).ok()?;
                assert_eq!(cache.rows() as u64, inbound.rows());
                inbox.grant(1).await;
                granted += 1;
            }
            Part::Seal(seal) => {
                let receipt = inbound.seal(&seal).ok()?;
                inbox.receipt(receipt).await;
                let mut last = None;
                while let Ok(reply) = said.try_recv() {
                    last = reply.ok().and_then(|reply: ShipReply| reply.part);
                }
                let rows = cache.rows() as u64;
                let whole = proto::ship_reply::Part::Receipt(proto::Receipt {
                    rows,
                    checksum: seal.checksum,
                });
                assert_eq!(last, Some(whole), "the last word is the receipt");
                return Some(seal);
            }
        }
    }
}

/// A header is what its message says, to the last field.
fn check_header(header: &Header, message: &proto::Header) {
    let shape = header.shape;
    let numbers = [
        shape.layers,
        shape.kv_heads,
        shape.head_dim,
        shape.tokens,
        shape.window_rows,
        shape.wide_rows,
    ];
    let said = [
        message.layers,
        message.kv_heads,
        message.head_dim,
        message.tokens,
        message.window_rows,
        message.wide_rows,
    ];
    assert!(numbers.into_iter().eq(said.map(|number| number as usize)));
    assert_eq!(shape.format.name(), message.row_format);
    assert_eq!(header.ticket.0[..], message.ticket[..]);
    assert_eq!(header.prompt_digest[..], message.prompt_digest[..]);
    assert_eq!(header.fingerprint[..], message.fingerprint[..]);
    assert_eq!(header.attempt, message.attempt);
}

/// What a sender of the expected transfer would have put there.
fn put_checksums_right(messages: &mut [ShipMessage]) {
    let (attempt, expected) = expected();
    let begun = Inbound::new(&expected, &expected, attempt.rows_max() as u64);
    let mut inbound = begun.expect("both ends agree");
    for message in messages {
        match &mut message.part {
            Some(Message::Frame(frame)) if frame.checksum & 1 == 0 => {
                let mut asked = Frame {
                    sequence: frame.sequence,
                    checksum: 0,
                    payload: frame.payload.clone(),
                };
                let Err(WireError::Corrupt { expected, .. }) = inbound.accept(&asked) else {
                    return;
                };
                frame.checksum = expected;
                asked.checksum = expected;
                if inbound.accept(&asked).is_err() {
                    return;
                }
            }
            Some(Message::Seal(seal)) if seal.checksum & 1 == 0 => {
                let asked = Seal {
                    frames: seal.frames,
                    checksum: 0,
                    rows: seal.rows.clone(),
                    first_token: seal.first_token,
                };
                if let Err(WireError::CorruptSeal { expected, .. }) = inbound.seal(&asked) {
                    seal.checksum = expected;
                }
                return;
            }
            _ => {}
        }
    }
}

/// A real transfer, whole, cut, and of another attempt.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (attempt, header) = expected();
    let prefilled = attempts::prefill(&attempt);
    let whole = sent(&header, prefilled);
    let mut late = whole.clone();
    if let Some(Message::Header(header)) = &mut late[0].part {
        header.attempt += 1;
    }
    let write = |messages: &[ShipMessage]| {
        let mut out = Vec::new();
        for message in messages {
            write_part(&mut out, &message.encode_to_vec());
        }
        out
    };
    vec![
        ("whole", write(&whole)),
        ("cut", write(&whole[..whole.len() - 1])),
        ("late", write(&late)),
    ]
}

/// The messages of a transfer, with the checksums that [`put_checksums_right`] replaces.
fn sent(header: &Header, (frames, seal): (Vec<Frame>, Seal)) -> Vec<ShipMessage> {
    let shape = header.shape;
    let first = Message::Header(proto::Header {
        wire_version: lava_kv::WIRE_VERSION,
        ticket: header.ticket.0.to_vec().into(),
        attempt: header.attempt,
        prompt_digest: header.prompt_digest.to_vec().into(),
        fingerprint: header.fingerprint.to_vec().into(),
        layers: shape.layers as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: shape.head_dim as u32,
        tokens: shape.tokens as u32,
        window_rows: shape.window_rows as u32,
        row_format: shape.format.name().to_owned(),
        wide_rows: shape.wide_rows as u32,
        lane: Bytes::new(),
    });
    let frames = frames.into_iter().map(|frame| {
        Message::Frame(proto::Frame {
            sequence: frame.sequence,
            checksum: 0,
            payload: frame.payload,
            by_lane: false,
        })
    });
    let last = Message::Seal(proto::Seal {
        frames: seal.frames,
        checksum: 0,
        rows: seal.rows,
        first_token: seal.first_token,
    });
    let parts = [first].into_iter().chain(frames).chain([last]);
    parts.map(|part| ShipMessage { part: Some(part) }).collect()
}
