//! The sender's end: opened when a transfer first wants it, and again after it broke.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lava_kv::Ticket;
use lava_node::Backoff;
use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::lane_message::Part as Message;
use lava_proto::worker::{LaneMessage, LaneOpening, LaneReply, Payload};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{LaneError, LaneId, LaneSetup, Shown, blocking, count};
use crate::fabric::{Communicator, Rank};

/// Payloads that wait for the lane, of all transfers.
const QUEUE: usize = 16;
/// Payloads that are announced and not sent yet, so that the receiver is ready for the next one.
const AHEAD: usize = 4;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    most: Duration::from_secs(60),
};

/// The lane to one receiver. Cloning shares it; it ends with its last clone.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    wanted: Arc<Notify>,
    open: watch::Receiver<Option<OpenLane>>,
    setup: LaneSetup,
    _keeper: Arc<Keeper>,
}

#[derive(Debug)]
struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A lane that payloads can be given to, until it is closed.
#[derive(Clone, Debug)]
pub(crate) struct OpenLane {
    pub(crate) id: LaneId,
    pub(crate) parcels: mpsc::Sender<Parcel>,
}

/// A payload and what it is announced as.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) ticket: Ticket,
    pub(crate) sequence: u32,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// Runs inside a runtime.
    pub(crate) fn new(setup: LaneSetup, client: CacheLinkClient<Channel>, address: String) -> Self {
        let wanted = Arc::new(Notify::new());
        let (open_lane, open) = watch::channel(None);
        let keeping = keep(
            setup.clone(),
            client,
            address,
            Arc::clone(&wanted),
            open_lane,
        );
        Self {
            wanted,
            open,
            setup,
            _keeper: Arc::new(Keeper(tokio::spawn(keeping))),
        }
    }

    /// The lane, if it is open. Otherwise it is opened soon, and nobody waits for that.
    pub(crate) fn get(&self) -> Option<OpenLane> {
        let open = self.open.borrow().clone();
        let open = open.filter(|lane| !lane.parcels.is_closed());
        if open.is_none() {
            self.wanted.notify_one();
        }
        open
    }

    /// A transfer goes on without it.
    pub(crate) fn fell_back(&self) {
        count(&self.setup.counts.fallen_back, 1);
    }
}

async fn keep(
    setup: LaneSetup,
    client: CacheLinkClient<Channel>,
    address: String,
    wanted: Arc<Notify>,
    open_lane: watch::Sender<Option<OpenLane>>,
) {
    let mut failures = 0u32;
    loop {
        wanted.notified().await;
        let error = match open(&setup, client.clone()).await {
            Ok((lane, joined)) => {
                tracing::info!(address, receiver = joined.incarnation, "lane opened");
                failures = 0;
                let _shown = Shown::new(&setup.counts);
                open_lane.send_replace(Some(lane));
                let Err(error) = joined.carry(&setup).await;
                open_lane.send_replace(None);
                count(&setup.counts.broken, 1);
                error
            }
            Err(error) => {
                count(&setup.counts.refused, 1);
                error
            }
        };
        // The first of an outage tells it all to operators.
        match failures {
            0 => tracing::warn!(address, %error, "no lane; caches go over gRPC"),
            _ => tracing::debug!(address, %error, "no lane"),
        }
        failures = failures.saturating_add(1);
        // A system without random numbers waits the longest pauses.
        sleep(BACKOFF.pause(failures, getrandom::u64().unwrap_or(u64::MAX))).await;
    }
}

/// A lane and the two ways to its receiver.
struct Joined {
    incarnation: String,
    communicator: Box<dyn Communicator>,
    announcements: mpsc::Sender<LaneMessage>,
    replies: Streaming<LaneReply>,
    parcels: mpsc::Receiver<Parcel>,
}

async fn open(
    setup: &LaneSetup,
    mut client: CacheLinkClient<Channel>,
) -> Result<(OpenLane, Joined), LaneError> {
    let fabric = Arc::clone(&setup.fabric);
    let unique_id = blocking(move || fabric.unique_id()).await??;
    let opening = LaneOpening {
        unique_id: unique_id.to_vec().into(),
        nccl_version: setup.fabric.version(),
        incarnation: setup.incarnation.clone(),
    };
    let (announcements, messages) = mpsc::channel(AHEAD);
    let _ = announcements.try_send(message(Message::Opening(opening)));
    let asking = async {
        let call = client.lane(ReceiverStream::new(messages)).await;
        let mut replies = call.map_err(LaneError::Peer)?.into_inner();
        let reply = replies.message().await.map_err(LaneError::Peer)?;
        Ok((reply, replies))
    };
    let silent = LaneError::Silent(setup.timeout);
    let asked: Result<_, LaneError> = timeout(setup.timeout, asking).await.map_err(|_| silent)?;
    let (reply, replies) = asked?;
    let opened = reply.and_then(|reply| reply.opened);
    let opened = opened.ok_or(LaneError::Unexpected {
        found: "an empty message",
        expected: "the lane's id",
    })?;
    let id = LaneId::try_from(&opened.lane[..]).map_err(|_| LaneError::FieldLen {
        field: "lane",
        found: opened.lane.len(),
        expected: "16",
    })?;
    let (fabric, within) = (Arc::clone(&setup.fabric), setup.timeout);
    let communicator = blocking(move || fabric.join(&unique_id, Rank::Sender, within)).await??;
    let (queue, parcels) = mpsc::channel(QUEUE);
    let lane = OpenLane { id, parcels: queue };
    let joined = Joined {
        incarnation: opened.incarnation,
        communicator,
        announcements,
        replies,
        parcels,
    };
    Ok((lane, joined))
}

impl Joined {
    /// Sends what it is given until something fails. Ending closes the queue, which all transfers see.
    async fn carry(self, setup: &LaneSetup) -> Result<Infallible, LaneError> {
        let Self {
            mut communicator,
            announcements,
            mut replies,
            mut parcels,
            ..
        } = self;
        let (ahead, mut announced) = mpsc::channel::<Parcel>(AHEAD);
        let gone = || LaneError::Silent(setup.timeout);
        let announcing = async {
            while let Some(parcel) = parcels.recv().await {
                let payload = Payload {
                    ticket: parcel.ticket.0.to_vec().into(),
                    sequence: parcel.sequence,
                    bytes: parcel.payload.len() as u32,
                };
                let announcement = announcements.send(message(Message::Payload(payload)));
                // A receiver that is gone shows in its replies.
                let _ = timeout(setup.timeout, announcement)
                    .await
                    .map_err(|_| gone())?;
                let _ = ahead.send(parcel).await;
            }
            // Nobody is left who could want this lane.
            Ok(std::future::pending::<Infallible>().await)
        };
        let sending = async {
            while let Some(Parcel { payload, .. }) = announced.recv().await {
                let (bytes, within) = (payload.len(), setup.timeout);
                let sending = blocking(move || {
                    let sent = communicator.send(&payload, within);
                    sent.map(|()| communicator)
                });
                communicator = sending.await??;
                count(&setup.counts.payload_bytes, bytes);
            }
            Ok(std::future::pending::<Infallible>().await)
        };
        let watching = async {
            match replies.message().await {
                Ok(None) => Err(LaneError::Unexpected {
                    found: "the end of the stream",
                    expected: "nothing",
                }),
                Ok(Some(_)) => Err(LaneError::Unexpected {
                    found: "a second message",
                    expected: "nothing",
                }),
                Err(status) => Err(LaneError::Peer(status)),
            }
        };
        tokio::select! {
            ended = announcing => ended,
            ended = sending => ended,
            ended = watching => ended,
        }
    }
}

fn message(part: Message) -> LaneMessage {
    LaneMessage { part: Some(part) }
}
