//! The sender's side of a link.

use std::sync::atomic::{AtomicU64, Ordering};

use lava_kv::{Header, Receipt};
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::{ShipMessage, ShipReply};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::convert;
use crate::error::ShipError;
use crate::inbox::Part;
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
    // One message waits here at most; the rest is the connection's.
    let (out, messages) = mpsc::channel(1);
    let begin = Message::Header(convert::header_to_wire(header));
    let _ = out.try_send(message(begin));
    let call = link.client().ship(ReceiverStream::new(messages)).await;
    let mut replies = call.map_err(classify)?.into_inner();
    let mut credit = 0u32;
    let mut sealed = false;
    loop {
        let part = tokio::select! {
            reply = next_reply(&mut replies) => {
                match reply? {
                    Reply::Credit(more) => credit = credit.saturating_add(more.frames),
                    Reply::Receipt(receipt) if sealed => return Ok(convert::receipt_from_wire(receipt)),
                    Reply::Receipt(_) => return Err(ShipError::Unexpected {
                        found: "a receipt",
                        expected: "the seal first",
                    }),
                }
                continue;
            }
            part = parts.recv(), if credit > 0 && !sealed => part,
        };
        let (part, bytes) = match part {
            Some(Part::Frame(frame)) => {
                credit -= 1;
                let bytes = frame.payload.len() as u64;
                (Message::Frame(convert::frame_to_wire(frame)), bytes)
            }
            Some(Part::Seal(seal)) => {
                sealed = true;
                (Message::Seal(convert::seal_to_wire(seal)), 0)
            }
            None => return Err(ShipError::Unfinished),
        };
        // A receiver that is gone has said why; the next reply is its status.
        if out.send(message(part)).await.is_ok() {
            sent.0.fetch_add(bytes, Ordering::Release);
        }
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
