//! A receiver that checks and counts, with settings for how it misbehaves.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lava_kv::{Inbound, Receipt};
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::{ShipMessage, ShipReply};
use lava_transfer::{Inbox, Link, Part, ReceiveError, server};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
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
    ending: Arc<Mutex<Option<oneshot::Sender<Ending>>>>,
}

#[tonic::async_trait]
impl CacheLink for Service {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(4);
        let (behaviour, ending) = (self.behaviour, Arc::clone(&self.ending));
        tokio::spawn(async move {
            let ended = receive(behaviour, request.into_inner(), replies.clone()).await;
            if let Err(error) = &ended {
                let _ = replies
                    .send(Err(Status::data_loss(error.to_string())))
                    .await;
            }
            let waiting = ending.lock().unwrap().take();
            waiting.map(|waiting| waiting.send(ended));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn receive(
    behaviour: Behaviour,
    messages: Streaming<ShipMessage>,
    replies: mpsc::Sender<Result<ShipReply, Status>>,
) -> Ending {
    let (found, mut inbox) = Inbox::open(messages, replies).await?;
    let mut inbound = Inbound::new(&found, &header(1), behaviour.rows_max as u64)?;
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

/// Starts a receiver for one transfer: a link to it, its address, and how the transfer will have ended.
pub(crate) async fn start(behaviour: Behaviour) -> (Link, SocketAddr, oneshot::Receiver<Ending>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ending, ended) = oneshot::channel();
    let service = Service {
        behaviour,
        ending: Arc::new(Mutex::new(Some(ending))),
    };
    let serving = Server::builder()
        .add_service(server(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let link = Link::new(&address.to_string(), Duration::from_secs(5)).unwrap();
    (link, address, ended)
}
