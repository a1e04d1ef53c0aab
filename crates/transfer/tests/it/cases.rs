use std::time::Duration;

use lava_kv::{Header, WireError};
use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::{Frame, ShipMessage};
use lava_transfer::{Link, Part, ReceiveError, ShipError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::receiver::{Behaviour, start};
use crate::sender::{PATIENCE, ROWS, header, parts, send};

fn payload_bytes(parts: &[Part]) -> u64 {
    let bytes = parts.iter().map(|part| match part {
        Part::Frame(frame) => frame.payload.len() as u64,
        Part::Seal(_) => 0,
    });
    bytes.sum()
}

#[tokio::test]
async fn a_whole_cache_arrives_with_any_credit_and_is_receipted() {
    for credit in [1, 2, 1000] {
        let behaviour = Behaviour {
            credit,
            ..Default::default()
        };
        let (link, _, mut ended) = start(behaviour).await;
        let parts = parts(header(1));
        let bytes = payload_bytes(&parts);
        let (receipt, sent) = send(&link, &header(1), parts, PATIENCE).await;
        let receipt = receipt.unwrap();
        assert_eq!((receipt.rows, sent), (ROWS as u64, bytes));
        assert_eq!(ended.recv().await.unwrap().unwrap(), receipt);
    }
}

#[tokio::test]
async fn a_prefill_that_ends_before_its_seal_leaves_a_cut_stream_behind() {
    let (link, _, mut ended) = start(Behaviour::default()).await;
    let mut parts = parts(header(1));
    parts.truncate(3);
    let (result, _) = send(&link, &header(1), parts, PATIENCE).await;
    assert!(matches!(result, Err(ShipError::Unfinished)), "{result:?}");
    let ended = ended.recv().await.unwrap();
    assert!(
        matches!(ended, Err(ReceiveError::Cut | ReceiveError::Link(_))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_stale_or_foreign_transfer_is_refused_before_its_first_frame() {
    for (change, expected) in [
        (
            Box::new(|h: &mut Header| h.attempt = 0) as Box<dyn Fn(&mut Header)>,
            "attempt 0",
        ),
        (
            Box::new(|h: &mut Header| h.fingerprint[0] ^= 1),
            "fingerprint",
        ),
        (
            Box::new(|h: &mut Header| h.prompt_digest[0] ^= 1),
            "prompt digest",
        ),
        (Box::new(|h: &mut Header| h.shape.tokens += 1), "shape"),
    ] {
        let (link, _, mut ended) = start(Behaviour::default()).await;
        let mut header = header(1);
        change(&mut header);
        let (result, sent) = send(&link, &header, parts(header), PATIENCE).await;
        let Err(ShipError::Refused(status)) = result else {
            panic!("{result:?}");
        };
        assert!(status.message().contains(expected), "{status}");
        assert_eq!(sent, 0);
        assert!(matches!(
            ended.recv().await.unwrap(),
            Err(ReceiveError::Wire(_))
        ));
    }
}

#[tokio::test]
async fn a_damaged_frame_ends_the_transfer_on_both_sides() {
    let (link, _, mut ended) = start(Behaviour::default()).await;
    let mut parts = parts(header(1));
    let Part::Frame(frame) = &mut parts[2] else {
        panic!("the third part is a frame");
    };
    frame.checksum ^= 1;
    let (result, _) = send(&link, &header(1), parts, PATIENCE).await;
    assert!(matches!(result, Err(ShipError::Refused(_))), "{result:?}");
    let ended = ended.recv().await.unwrap();
    assert!(
        matches!(
            ended,
            Err(ReceiveError::Wire(WireError::Corrupt { sequence: 2, .. }))
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn more_rows_than_reserved_are_refused() {
    let behaviour = Behaviour {
        rows_max: ROWS - 1,
        ..Default::default()
    };
    let (link, _, mut ended) = start(behaviour).await;
    let (result, _) = send(&link, &header(1), parts(header(1)), PATIENCE).await;
    assert!(matches!(result, Err(ShipError::Refused(_))), "{result:?}");
    assert!(matches!(
        ended.recv().await.unwrap(),
        Err(ReceiveError::Wire(WireError::ExceedsReservation { .. }))
    ));
}

#[tokio::test]
async fn a_receiver_that_grants_no_more_costs_its_sender_the_deadline_and_no_more_frames() {
    let behaviour = Behaviour {
        credit: 2,
        stall_after: 1,
        ..Default::default()
    };
    let (link, _, _ended) = start(behaviour).await;
    let parts = parts(header(1));
    let most = payload_bytes(&parts[..2]);
    let (result, sent) = send(&link, &header(1), parts, Duration::from_millis(300)).await;
    assert!(matches!(result, Err(ShipError::Deadline)), "{result:?}");
    assert_eq!(sent, most);
}

#[tokio::test]
async fn a_sender_that_does_not_wait_for_credit_is_refused() {
    let behaviour = Behaviour {
        credit: 1,
        stall_after: 1,
        ..Default::default()
    };
    let (_, address, mut ended) = start(behaviour).await;
    let mut client = CacheLinkClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let (queue, messages) = mpsc::channel(8);
    let wire = |part| ShipMessage { part: Some(part) };
    let mut frames = parts(header(1)).into_iter().map(|part| match part {
        Part::Frame(frame) => wire(Message::Frame(Frame {
            sequence: frame.sequence,
            checksum: frame.checksum,
            payload: frame.payload,
            by_lane: false,
        })),
        Part::Seal(_) => panic!("the first parts are frames"),
    });
    let begin = lava_proto::worker::Header {
        wire_version: lava_kv::WIRE_VERSION,
        ticket: vec![1; 16].into(),
        attempt: 1,
        prompt_digest: vec![2; 16].into(),
        fingerprint: vec![3; 16].into(),
        layers: 4,
        kv_heads: 2,
        head_dim: 8,
        tokens: 100,
        window_rows: 4,
        row_format: "int8".into(),
        wide_rows: 4,
        lane: Vec::new().into(),
    };
    queue.try_send(wire(Message::Header(begin))).unwrap();
    queue.try_send(frames.next().unwrap()).unwrap();
    queue.try_send(frames.next().unwrap()).unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let _replies = client.ship(stream).await.unwrap();
    let ended = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ReceiveError::OverCredit)), "{ended:?}");
}

#[tokio::test]
async fn a_receiver_of_another_wire_version_is_told_apart() {
    let (_, address, mut ended) = start(Behaviour::default()).await;
    let mut client = CacheLinkClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let begin = lava_proto::worker::Header {
        wire_version: lava_kv::WIRE_VERSION + 1,
        ..Default::default()
    };
    let message = ShipMessage {
        part: Some(Message::Header(begin)),
    };
    let _replies = client.ship(tokio_stream::once(message)).await.unwrap();
    let ended = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    assert_eq!(
        ended.unwrap_err().to_string(),
        format!(
            "the sender speaks wire version {}, this worker {}",
            lava_kv::WIRE_VERSION + 1,
            lava_kv::WIRE_VERSION
        )
    );
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_a_broken_link() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let link = Link::new(&address, Duration::from_secs(5), None).unwrap();
    let (result, _) = send(&link, &header(1), parts(header(1)), PATIENCE).await;
    assert!(matches!(result, Err(ShipError::Link(_))), "{result:?}");
    assert!(matches!(
        Link::new("no address", PATIENCE, None),
        Err(ShipError::Address { .. })
    ));
}
