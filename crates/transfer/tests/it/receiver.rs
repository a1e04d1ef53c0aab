//! A receiver that checks and counts, with settings for how it misbehaves.

use std::net::SocketAddr;
use std::time::Duration;

use lava_kv::{Inbound, Receipt};
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::{LaneMessage, LaneReply, ShipMessage, ShipReply};
use lava_transfer::{Inbox, Lanes, Link, Part, ReceiveError, server};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::sender::{ROWS, header};

/// How a receiver behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Frames that may be in flight.
    pub(crate) credit: u32,
    /// Grant no more after this many frames.
    pub(crate) stall_after: usize,
    /// Rows that are reserved.
    pub(crate) rows_max: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            credit: 2,
            stall_after: usize::MAX,
            rows_max: ROWS,
        }
    }
}

/// How a transfer ended for the receiver.
pub(crate) type Ending = Result<Receipt, ReceiveError>;

struct Service {
    behaviour: Behaviour,
    lanes: Lanes,
    endings: mpsc::Sender<Ending>,
}

#[tonic::async_trait]
impl CacheLink for Service {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(4);
        let (behaviour, lanes) = (self.behaviour, self.lanes.clone());
        let endings = self.endings.clone();
        tokio::spawn(async move {
            let ended = receive(behaviour, &lanes, request.into_inner(), replies.clone()).await;
            if let Err(error) = &ended {
                let _ = replies
                    .send(Err(Status::data_loss(error.to_string())))
                    .await;
            }
            let _ = endings.send(ended).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lane(
        &self,
        request: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        let (replies, stream) = mpsc::channel(2);
        let lanes = self.lanes.clone();
        tokio::spawn(async move {
            if let Err(error) = lanes.run(request.into_inner(), replies.clone()).await {
                let _ = replies.try_send(Err(Status::aborted(error.to_string())));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn receive(
    behaviour: Behaviour,
    lanes: &Lanes,
    messages: Streaming<ShipMessage>,
    replies: mpsc::Sender<Result<ShipReply, Status>>,
) -> Ending {
    let (found, mut inbox) = Inbox::open(messages, replies, lanes).await?;
    // Tickets of concurrent transfers differ, and nothing else.
    let expected = header(found.ticket.0[0]);
    let mut inbound = Inbound::new(&found, &expected, behaviour.rows_max as u64)?;
    inbox.grant(behaviour.credit).await;
    let mut frames = 0;
    loop {
        match inbox.next().await? {
            Part::Frame(frame) => {
                inbound.accept(&frame)?;
                frames += 1;
                if frames < behaviour.stall_after {
                    inbox.grant(1).await;
                }
            }
            Part::Seal(seal) => {
                let receipt = inbound.seal(&seal)?;
                inbox.receipt(receipt).await;
                return Ok(receipt);
            }
        }
    }
}

/// Starts a receiver: a link to it, its address, and how its transfers will have ended.
pub(crate) async fn start(behaviour: Behaviour) -> (Link, SocketAddr, mpsc::Receiver<Ending>) {
    let (address, ended) = serve(behaviour, Lanes::none()).await;
    let link = Link::new(&address.to_string(), Duration::from_secs(5), None).unwrap();
    (link, address, ended)
}

/// A receiver that may have lanes.
pub(crate) async fn serve(
    behaviour: Behaviour,
    lanes: Lanes,
) -> (SocketAddr, mpsc::Receiver<Ending>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (endings, ended) = mpsc::channel(64);
    let service = Service {
        behaviour,
        lanes,
        endings,
    };
    let serving = Server::builder()
        .add_service(server(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (address, ended)
}
