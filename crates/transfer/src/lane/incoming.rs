//! The receiver's end: payloads are received in the order of their announcements and put where their transfers look for them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lava_kv::Ticket;
use lava_proto::worker::lane_message::Part as Message;
use lava_proto::worker::{LaneMessage, LaneOpened, LaneOpening, LaneReply, Payload};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{LaneError, LaneId, LaneSetup, Shown, blocking, count};
use crate::PAYLOAD_BYTES_MAX;
use crate::fabric::{Communicator, Rank, UNIQUE_ID_BYTES, UniqueId};

/// Lanes that a receiver has at once; each holds some memory of its GPU.
const LANES_MAX: usize = 64;
/// Payloads that were announced and are not received yet.
const AHEAD: usize = 4;

/// The lanes that end here. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    setup: LaneSetup,
    places: Arc<Semaphore>,
    open: Mutex<HashMap<LaneId, Arc<Mailboxes>>>,
}

/// Where the payloads of transfers go, by their tickets.
type Mailboxes = Mutex<HashMap<Ticket, mpsc::Sender<(u32, Bytes)>>>;

/// The payloads of one transfer, with their frames' sequences. It is closed when its lane ended.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) payloads: mpsc::Receiver<(u32, Bytes)>,
    ticket: Ticket,
    mailboxes: Arc<Mailboxes>,
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        lock(&self.mailboxes).remove(&self.ticket);
    }
}

/// An open lane; drop closes its mailboxes.
struct Open<'a> {
    shared: &'a Shared,
    id: LaneId,
    mailboxes: Arc<Mailboxes>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.id);
        lock(&self.mailboxes).clear();
    }
}

impl Lanes {
    /// None, and none will be opened.
    pub fn none() -> Self {
        Self(None)
    }

    /// None yet.
    pub fn new(setup: LaneSetup) -> Self {
        Self(Some(Arc::new(Shared {
            setup,
            places: Arc::new(Semaphore::new(LANES_MAX)),
            open: Mutex::default(),
        })))
    }

    /// Opens a lane and receives what comes over it until the sender leaves. The caller answers the call with the other end of
    /// `replies`.
    ///
    /// # Errors
    /// It could not be opened, or it broke. Its transfers go on without it.
    pub async fn run(
        &self,
        messages: Streaming<LaneMessage>,
        replies: mpsc::Sender<Result<LaneReply, Status>>,
    ) -> Result<(), LaneError> {
        let shared = self.0.as_deref().ok_or(LaneError::NoFabric)?;
        let counts = &shared.setup.counts;
        let opened = shared.open(messages, replies).await;
        let (lane, joined) = opened.inspect_err(|_| count(&counts.refused, 1))?;
        let _shown = Shown::new(counts);
        let ended = joined.carry(shared, &lane).await;
        ended.inspect_err(|_| count(&counts.broken, 1))
    }

    /// A place for the payloads of a transfer, at most `frames_max` at once, if there is such a lane.
    pub(crate) fn attach(&self, lane: LaneId, ticket: Ticket, frames_max: u32) -> Option<Mailbox> {
        let shared = self.0.as_deref()?;
        let mailboxes = lock(&shared.open).get(&lane).cloned()?;
        let (put, payloads) = mpsc::channel(frames_max.max(1) as usize);
        lock(&mailboxes).insert(ticket, put);
        Some(Mailbox {
            payloads,
            ticket,
            mailboxes,
        })
    }
}

/// A lane and the way from its sender.
struct Joined {
    communicator: Box<dyn Communicator>,
    messages: Streaming<LaneMessage>,
    _place: tokio::sync::OwnedSemaphorePermit,
    /// Dropped, it would end the call.
    _replies: mpsc::Sender<Result<LaneReply, Status>>,
}

impl Shared {
    async fn open(
        &self,
        mut messages: Streaming<LaneMessage>,
        replies: mpsc::Sender<Result<LaneReply, Status>>,
    ) -> Result<(Open<'_>, Joined), LaneError> {
        let setup = &self.setup;
        let first = timeout(setup.timeout, next(&mut messages)).await;
        let first = first.map_err(|_| LaneError::Silent(setup.timeout))??;
        let Some(Message::Opening(opening)) = first else {
            return Err(LaneError::Unexpected {
                found: first.as_ref().map_or("the end of the stream", name),
                expected: "the opening of a lane",
            });
        };
        let unique_id = self.check(&opening)?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| LaneError::Full { most: LANES_MAX })?;
        let mut id = LaneId::default();
        getrandom::fill(&mut id).map_err(|_| LaneError::System("random numbers"))?;
        let opened = LaneOpened {
            lane: id.to_vec().into(),
            incarnation: setup.incarnation.clone(),
        };
        // A sender that is gone does not join.
        let _ = replies.try_send(Ok(LaneReply {
            opened: Some(opened),
        }));
        let (fabric, within) = (Arc::clone(&setup.fabric), setup.timeout);
        let joining = blocking(move || fabric.join(&unique_id, Rank::Receiver, within));
        let communicator = joining.await??;
        tracing::info!(sender = opening.incarnation, "lane opened");
        let mailboxes = Arc::new(Mailboxes::default());
        lock(&self.open).insert(id, Arc::clone(&mailboxes));
        let open = Open {
            shared: self,
            id,
            mailboxes,
        };
        let joined = Joined {
            communicator,
            messages,
            _place: place,
            _replies: replies,
        };
        Ok((open, joined))
    }

    fn check(&self, opening: &LaneOpening) -> Result<UniqueId, LaneError> {
        let (found, expected) = (opening.nccl_version, self.setup.fabric.version());
        if found != expected {
            return Err(LaneError::Version { found, expected });
        }
        UniqueId::try_from(&opening.unique_id[..]).map_err(|_| LaneError::FieldLen {
            field: "unique_id",
            found: opening.unique_id.len(),
            expected: const {
                assert!(UNIQUE_ID_BYTES == 128);
                "128"
            },
        })
    }
}

impl Joined {
    async fn carry(self, shared: &Shared, lane: &Open<'_>) -> Result<(), LaneError> {
        let Self {
            mut communicator,
            mut messages,
            ..
        } = self;
        let setup = &shared.setup;
        let (orders, mut announced) = mpsc::channel(AHEAD);
        let reading = async move {
            while let Some(message) = next(&mut messages).await? {
                let Message::Payload(payload) = message else {
                    return Err(LaneError::Unexpected {
                        found: name(&message),
                        expected: "a payload",
                    });
                };
                let ticket = check(&payload)?;
                let _ = orders.send((ticket, payload)).await;
            }
            // The sender has left in good order: what it announced is still to come.
            drop(orders);
            Ok(std::future::pending::<Infallible>().await)
        };
        let receiving = async {
            while let Some((ticket, payload)) = announced.recv().await {
                let mut received = vec![0; payload.bytes as usize];
                let within = setup.timeout;
                let receiving = blocking(move || {
                    let done = communicator.receive(&mut received, within);
                    done.map(|()| (communicator, received))
                });
                let (kept, received) = receiving.await??;
                communicator = kept;
                count(&setup.counts.payload_bytes, received.len());
                lane.deliver(ticket, payload.sequence, received.into());
            }
            Ok(())
        };
        tokio::select! {
            Err(error) = reading => Err(error),
            ended = receiving => ended,
        }
    }
}

impl Open<'_> {
    /// Nobody may be left who waits for it; and who has more waiting than it gave leave for does not follow the protocol, and gets
    /// no more.
    fn deliver(&self, ticket: Ticket, sequence: u32, payload: Bytes) {
        let mut mailboxes = lock(&self.mailboxes);
        let put = mailboxes.get(&ticket);
        if put.is_some_and(|put| put.try_send((sequence, payload)).is_err()) {
            mailboxes.remove(&ticket);
        }
    }
}

fn check(payload: &Payload) -> Result<Ticket, LaneError> {
    if payload.bytes as usize > PAYLOAD_BYTES_MAX {
        return Err(LaneError::FieldLen {
            field: "a payload",
            found: payload.bytes as usize,
            expected: const {
                assert!(PAYLOAD_BYTES_MAX == 1 << 20);
                "1048576 at most"
            },
        });
    }
    let ticket = <[u8; 16]>::try_from(&payload.ticket[..]);
    ticket.map(Ticket).map_err(|_| LaneError::FieldLen {
        field: "ticket",
        found: payload.ticket.len(),
        expected: "16",
    })
}

async fn next(messages: &mut Streaming<LaneMessage>) -> Result<Option<Message>, LaneError> {
    match messages.message().await.map_err(LaneError::Peer)? {
        None => Ok(None),
        Some(LaneMessage { part: Some(part) }) => Ok(Some(part)),
        Some(LaneMessage { part: None }) => Err(LaneError::Unexpected {
            found: "an empty message",
            expected: "an opening or a payload",
        }),
    }
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Opening(_) => "an opening",
        Message::Payload(_) => "a payload",
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
