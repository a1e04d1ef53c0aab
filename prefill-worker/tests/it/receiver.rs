//! A decode worker's intake that records rows and positions.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lava_kv::{Group, Header, Inbound};
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::{LaneMessage, LaneReply, ShipMessage, ShipReply};
use lava_transfer::{Inbox, Lanes, Part, server};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Rows of one layer and KV head in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// What packed keys are relative to.
    pub(crate) mean: Vec<u8>,
    pub(crate) positions: Vec<u32>,
    /// Key codes, key scale, value codes and value scale of each.
    pub(crate) rows: Vec<Vec<u8>>,
}

/// A sealed cache.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) header: Header,
    pub(crate) tables: Vec<Table>,
    pub(crate) first_token: u32,
    /// Frames before the seal.
    pub(crate) frames: usize,
}

/// For transfers to come.
type Endings = Arc<Mutex<VecDeque<oneshot::Sender<Received>>>>;

struct Service {
    endings: Endings,
    lanes: Lanes,
}

#[tonic::async_trait]
impl CacheLink for Service {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn lane(
        &self,
        request: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        let (replies, stream) = mpsc::channel(2);
        let lanes = self.lanes.clone();
        tokio::spawn(async move {
            let ended = lanes.run(request.into_inner(), replies.clone()).await;
            if let Err(error) = ended {
                let _ = replies.try_send(Err(Status::aborted(error.to_string())));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(8);
        let ending = self.endings.lock().unwrap().pop_front();
        let ending = ending.expect("a transfer that is expected");
        let lanes = self.lanes.clone();
        tokio::spawn(async move {
            let _ = ending.send(receive(request.into_inner(), replies, &lanes).await);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn receive(
    messages: Streaming<ShipMessage>,
    replies: mpsc::Sender<Result<ShipReply, Status>>,
    lanes: &Lanes,
) -> Received {
    let (header, mut inbox) = Inbox::open(messages, replies, lanes).await.unwrap();
    let mut inbound = Inbound::new(&header, &header, u64::MAX).unwrap();
    let mut received = Received {
        header,
        tables: vec![Table::default(); header.shape.tables()],
        first_token: 0,
        frames: 0,
    };
    inbox.grant(2).await;
    loop {
        match inbox.next().await.unwrap() {
            Part::Frame(frame) => {
                let kv_heads = header.shape.kv_heads;
                let arrived = inbound.accept(&frame).unwrap();
                for mean in arrived.means {
                    let table = &mut received.tables[mean.layer * kv_heads + mean.head];
                    assert!(table.mean.is_empty(), "a mean comes once");
                    table.mean = mean.bytes.to_vec();
                }
                for group in arrived.groups {
                    let table = &mut received.tables[group.layer * kv_heads + group.head];
                    table.positions.extend(group.positions());
                    table
                        .rows
                        .extend((0..group.rows).map(|row| of_row(&group, row)));
                }
                received.frames += 1;
                inbox.grant(1).await;
            }
            Part::Seal(seal) => {
                let receipt = inbound.seal(&seal).unwrap();
                received.first_token = seal.first_token;
                inbox.receipt(receipt).await;
                return received;
            }
        }
    }
}

/// A row's bytes out of a group, whose halves are all codes and then all scales.
fn of_row(group: &Group<'_>, row: usize) -> Vec<u8> {
    let scale_bytes = group.format.scale_bytes();
    let of_half = |half: &[u8]| {
        let (codes, scales) = half.split_at(half.len() - group.rows * scale_bytes);
        let code_bytes = codes.len() / group.rows;
        let codes = &codes[row * code_bytes..][..code_bytes];
        [codes, &scales[row * scale_bytes..][..scale_bytes]].concat()
    };
    [of_half(group.keys), of_half(group.values)].concat()
}

/// Where to ship to, and what will have arrived.
pub(crate) async fn start() -> (SocketAddr, oneshot::Receiver<Received>) {
    let (address, [received]) = start_over(Lanes::none()).await;
    (address, received)
}

/// The same for several transfers, with what lanes it may have.
pub(crate) async fn start_over<const TRANSFERS: usize>(
    lanes: Lanes,
) -> (SocketAddr, [oneshot::Receiver<Received>; TRANSFERS]) {
    let mut endings = VecDeque::new();
    let received = std::array::from_fn(|_| {
        let (ending, received) = oneshot::channel();
        endings.push_back(ending);
        received
    });
    let endings = Arc::new(Mutex::new(endings));
    (serve(Service { endings, lanes }).await, received)
}

async fn serve(service: impl CacheLink) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(server(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    address
}

/// One that takes nothing in, so that the engine waits for it.
struct Silent;

#[tonic::async_trait]
impl CacheLink for Silent {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn lane(
        &self,
        _request: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        std::future::pending().await
    }

    async fn ship(
        &self,
        _request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        std::future::pending().await
    }
}

/// Where a transfer gets nowhere.
pub(crate) async fn silent() -> SocketAddr {
    serve(Silent).await
}
