//! The sender's side of a link.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_kv::{Frame, Header, Receipt, Ticket};
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::{self as proto, Credit, ShipMessage, ShipReply};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::convert;
use crate::error::ShipError;
use crate::inbox::Part;
use crate::lane::{OpenLane, Outgoing, Parcel};
use crate::link::Link;

/// Payload bytes that were handed to the link so far.
#[derive(Debug, Default)]
pub struct Sent(AtomicU64);

impl Sent {
    /// Bytes up to now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Ships one cache: frames as they come out of `parts` and credit allows, then the seal, and waits for
/// the receipt. Dropping the future ends the transfer; the receiver then drops what it has.
///
/// # Errors
/// See [`ShipError`]; nothing of the cache is used by the receiver then.
pub async fn ship(
    link: &Link,
    header: &Header,
    parts: mpsc::Receiver<Part>,
    sent: &Sent,
    deadline: Instant,
) -> Result<Receipt, ShipError> {
    let transfer = transfer(link, header, parts, sent);
    timeout_at(deadline, transfer)
        .await
        .unwrap_or(Err(ShipError::Deadline))
}

async fn transfer(
    link: &Link,
    header: &Header,
    mut parts: mpsc::Receiver<Part>,
    sent: &Sent,
) -> Result<Receipt, ShipError> {
    let mut lane = OfLane {
        lane: link.lane(),
        offered: link.lane().and_then(Outgoing::get),
        open: None,
        in_flight: VecDeque::new(),
    };
    // One message waits here at most; the rest is the connection's.
    let (out, messages) = mpsc::channel(1);
    let offered = lane.offered.as_ref().map(|lane| lane.id);
    let begin = Message::Header(convert::header_to_wire(header, offered));
    let _ = out.try_send(message(begin));
    let call = link.client().ship(ReceiverStream::new(messages)).await;
    let mut replies = call.map_err(classify)?.into_inner();
    // A receiver that is gone has said why; the next reply is its status.
    let send = async |part| out.send(message(part)).await.is_ok();
    let mut credit = 0u32;
    let mut sealed = false;
    loop {
        let part = tokio::select! {
            // Credit first: it is little, and what it says of a lane comes before more is sent.
            biased;
            reply = next_reply(&mut replies) => {
                match reply? {
                    Reply::Credit(more) => {
                        credit = credit.saturating_add(more.frames);
                        lane.taken(&more);
                    }
                    Reply::Receipt(receipt) if sealed => return Ok(convert::receipt_from_wire(receipt)),
                    Reply::Receipt(_) => return Err(ShipError::Unexpected {
                        found: "a receipt",
                        expected: "the seal first",
                    }),
                }
                continue;
            }
            again = lane.lost() => {
                for frame in again {
                    send(Message::Frame(convert::frame_to_wire(frame))).await;
                }
                continue;
            }
            part = parts.recv(), if credit > 0 && !sealed => part,
        };
        match part {
            Some(Part::Frame(frame)) => {
                credit -= 1;
                let bytes = frame.payload.len() as u64;
                for frame in lane.carry(header.ticket, frame).await {
                    if send(Message::Frame(frame)).await {
                        sent.0.fetch_add(bytes, Ordering::Release);
                    }
                }
            }
            Some(Part::Seal(seal)) => {
                sealed = true;
                send(Message::Seal(convert::seal_to_wire(seal))).await;
            }
            None => return Err(ShipError::Unfinished),
        }
    }
}

/// What a transfer has to do with its link's lane.
struct OfLane<'a> {
    lane: Option<&'a Outgoing>,
    /// Named by the header.
    offered: Option<OpenLane>,
    /// With the receiver's leave, until it is lost.
    open: Option<OpenLane>,
    /// Went over the lane, and the receiver has not said that it has them.
    in_flight: VecDeque<Frame>,
}

impl OfLane<'_> {
    fn taken(&mut self, credit: &Credit) {
        if let (Some(lane), true) = (self.offered.take(), credit.by_lane) {
            self.open = Some(lane);
        }
        let taken = |frame: &mut Frame| frame.sequence < credit.taken;
        while self.in_flight.pop_front_if(taken).is_some() {}
    }

    /// Gives a frame to the lane, and says what is to be sent instead: its frame without the payload; or, where the lane is lost, the
    /// frame itself and all those before it that may not have arrived.
    async fn carry(&mut self, ticket: Ticket, frame: Frame) -> Vec<proto::Frame> {
        let Some(lane) = &self.open else {
            return vec![convert::frame_to_wire(frame)];
        };
        let parcel = Parcel {
            ticket,
            sequence: frame.sequence,
            payload: frame.payload.clone(),
        };
        let carried = lane.parcels.send(parcel).await.is_ok();
        let by_lane = convert::frame_by_lane(&frame);
        self.in_flight.push_back(frame);
        match carried {
            true => vec![by_lane],
            false => self
                .again()
                .into_iter()
                .map(convert::frame_to_wire)
                .collect(),
        }
    }

    /// Resolves when the lane is lost, with the frames that are to be sent again.
    async fn lost(&mut self) -> Vec<Frame> {
        match &self.open {
            Some(lane) => lane.parcels.closed().await,
            None => std::future::pending().await,
        }
        self.again()
    }

    fn again(&mut self) -> Vec<Frame> {
        self.open = None;
        if let Some(lane) = self.lane {
            lane.fell_back();
        }
        self.in_flight.drain(..).collect()
    }
}

fn message(part: Message) -> ShipMessage {
    ShipMessage { part: Some(part) }
}

async fn next_reply(replies: &mut Streaming<ShipReply>) -> Result<Reply, ShipError> {
    let reply = replies.message().await.map_err(classify)?;
    reply
        .and_then(|reply| reply.part)
        .ok_or(ShipError::Unexpected {
            found: "the end of the stream",
            expected: "credit or a receipt",
        })
}

/// Transport faults carry codes that no receiver of ours sends.
fn classify(status: Status) -> ShipError {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => ShipError::Link(status),
        Code::DeadlineExceeded => ShipError::Deadline,
        _ => ShipError::Refused(status),
    }
}
