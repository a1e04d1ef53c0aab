//! The receiver's side of a link.

use lava_kv::{Frame, Header, Receipt, Seal};
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::{Credit, ShipMessage, ShipReply};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::convert;
use crate::error::ReceiveError;

/// What follows a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rows.
    Frame(Frame),
    /// The end.
    Seal(Seal),
}

/// One incoming transfer.
#[derive(Debug)]
pub struct Inbox {
    messages: Streaming<ShipMessage>,
    replies: mpsc::Sender<Result<ShipReply, Status>>,
    credit: u32,
}

impl Inbox {
    /// Reads the header. The caller answers the call with the other end of `replies`.
    ///
    /// # Errors
    /// The first message is not a header that can be read.
    pub async fn open(
        mut messages: Streaming<ShipMessage>,
        replies: mpsc::Sender<Result<ShipReply, Status>>,
    ) -> Result<(Header, Self), ReceiveError> {
        let header = match next(&mut messages).await? {
            Message::Header(header) => convert::header_from_wire(&header)?,
            other => {
                return Err(ReceiveError::Unexpected {
                    found: name(&other),
                    expected: "a header",
                });
            }
        };
        let inbox = Self {
            messages,
            replies,
            credit: 0,
        };
        Ok((header, inbox))
    }

    /// Allows `frames` more frames.
    pub async fn grant(&mut self, frames: u32) {
        self.credit += frames;
        // A sender that is gone shows in the next message.
        let _ = self.reply(Reply::Credit(Credit { frames })).await;
    }

    /// The next frame, or the seal.
    ///
    /// # Errors
    /// The stream broke or ended, a frame came without credit, or something else came.
    pub async fn next(&mut self) -> Result<Part, ReceiveError> {
        match next(&mut self.messages).await? {
            Message::Frame(frame) => {
                self.credit = self.credit.checked_sub(1).ok_or(ReceiveError::OverCredit)?;
                Ok(Part::Frame(convert::frame_from_wire(frame)))
            }
            Message::Seal(seal) => Ok(Part::Seal(convert::seal_from_wire(seal))),
            Message::Header(_) => Err(ReceiveError::Unexpected {
                found: "a second header",
                expected: "a frame or the seal",
            }),
        }
    }

    /// Answers the seal.
    pub async fn receipt(self, receipt: Receipt) {
        let receipt = Reply::Receipt(convert::receipt_to_wire(receipt));
        let _ = self.reply(receipt).await;
    }

    async fn reply(
        &self,
        part: Reply,
    ) -> Result<(), mpsc::error::SendError<Result<ShipReply, Status>>> {
        self.replies.send(Ok(ShipReply { part: Some(part) })).await
    }
}

async fn next(messages: &mut Streaming<ShipMessage>) -> Result<Message, ReceiveError> {
    let message = messages.message().await.map_err(ReceiveError::Link)?;
    let message = message.ok_or(ReceiveError::Cut)?;
    message.part.ok_or(ReceiveError::Unexpected {
        found: "an empty message",
        expected: "a header, a frame or the seal",
    })
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Header(_) => "a header",
        Message::Frame(_) => "a frame",
        Message::Seal(_) => "a seal",
    }
}
