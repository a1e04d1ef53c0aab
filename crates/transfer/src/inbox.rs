//! The receiver's side of a link.

use lava_kv::{Frame, Header, Receipt, Seal, Ticket};
use lava_proto::worker::ship_message::Part as Message;
use lava_proto::worker::ship_reply::Part as Reply;
use lava_proto::worker::{self as proto, Credit, ShipMessage, ShipReply};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::convert;
use crate::error::ReceiveError;
use crate::lane::{LaneId, Lanes, Mailbox};

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
    /// Frames that may be sent, from the first.
    granted: u32,
    /// Sequence of the frame that comes next.
    next: u32,
    lane: Lane,
    /// Came before frames that are sent again.
    seal: Option<Seal>,
}

/// How payloads come.
#[derive(Debug)]
enum Lane {
    /// Within their frames.
    None,
    /// Within their frames, but there was a lane: frames may come again, and what was to come by the lane does not.
    Lost,
    /// As the sender wishes, once it has leave.
    Offered {
        lanes: Lanes,
        id: LaneId,
        ticket: Ticket,
    },
    /// By this lane.
    Open(Mailbox),
}

impl Inbox {
    /// Reads the header. The caller answers the call with the other end of `replies`.
    ///
    /// # Errors
    /// The first message is not a header that can be read.
    pub async fn open(
        mut messages: Streaming<ShipMessage>,
        replies: mpsc::Sender<Result<ShipReply, Status>>,
        lanes: &Lanes,
    ) -> Result<(Header, Self), ReceiveError> {
        let (header, lane) = match next(&mut messages).await? {
            Message::Header(header) => (
                convert::header_from_wire(&header)?,
                convert::lane_from_wire(&header)?,
            ),
            other => {
                return Err(ReceiveError::Unexpected {
                    found: name(&other),
                    expected: "a header",
                });
            }
        };
        let lane = match lane {
            None => Lane::None,
            Some(id) => Lane::Offered {
                lanes: lanes.clone(),
                id,
                ticket: header.ticket,
            },
        };
        let inbox = Self {
            messages,
            replies,
            granted: 0,
            next: 0,
            lane,
            seal: None,
        };
        Ok((header, inbox))
    }

    /// Allows `frames` more frames. Those that [`next`](Self::next) gave need not be sent again.
    pub async fn grant(&mut self, frames: u32) {
        self.granted = self.granted.saturating_add(frames);
        let mut by_lane = false;
        if let Lane::Offered { lanes, id, ticket } = &self.lane {
            let mailbox = lanes.attach(*id, *ticket, frames);
            by_lane = mailbox.is_some();
            self.lane = mailbox.map_or(Lane::None, Lane::Open);
        }
        let credit = Credit {
            frames,
            taken: self.next,
            by_lane,
        };
        // A sender that is gone shows in the next message.
        let _ = self.reply(Reply::Credit(credit)).await;
    }

    /// The next frame, or the seal.
    ///
    /// # Errors
    /// The stream broke or ended, a frame came without credit, or something else came.
    pub async fn next(&mut self) -> Result<Part, ReceiveError> {
        loop {
            if let Some(seal) = self.seal.take_if(|seal| seal.frames <= self.next) {
                return Ok(Part::Seal(seal));
            }
            match next(&mut self.messages).await? {
                Message::Frame(frame) => {
                    if let Some(frame) = self.frame(frame).await? {
                        self.next += 1;
                        return Ok(Part::Frame(frame));
                    }
                }
                Message::Seal(seal) => self.seal = Some(convert::seal_from_wire(seal)),
                Message::Header(_) => {
                    return Err(ReceiveError::Unexpected {
                        found: "a second header",
                        expected: "a frame or the seal",
                    });
                }
            }
            // A lane that was lost may owe frames. Without one the seal is what comes, and what is missing is the caller's to see.
            if !matches!(self.lane, Lane::Lost)
                && let Some(seal) = self.seal.take()
            {
                return Ok(Part::Seal(seal));
            }
        }
    }

    /// A frame with its payload; `None` if it was taken in before, or comes again.
    async fn frame(&mut self, frame: proto::Frame) -> Result<Option<Frame>, ReceiveError> {
        let was_on_lane = !matches!(self.lane, Lane::None);
        if was_on_lane && frame.sequence < self.next {
            return Ok(None);
        }
        if frame.sequence >= self.granted {
            return Err(ReceiveError::OverCredit);
        }
        let by_lane = frame.by_lane;
        let mut frame = convert::frame_from_wire(frame);
        if by_lane {
            match &mut self.lane {
                Lane::Open(mailbox) => match mailbox.payloads.recv().await {
                    Some((sequence, payload)) if sequence == frame.sequence => {
                        frame.payload = payload;
                    }
                    Some(_) => {
                        return Err(ReceiveError::Unexpected {
                            found: "another frame's payload over the lane",
                            expected: "this frame's",
                        });
                    }
                    None => {
                        self.lane = Lane::Lost;
                        return Ok(None);
                    }
                },
                Lane::Lost => return Ok(None),
                Lane::None | Lane::Offered { .. } => {
                    return Err(ReceiveError::Unexpected {
                        found: "a frame over a lane",
                        expected: "one with its payload, since it has no leave for a lane",
                    });
                }
            }
        }
        Ok(Some(frame))
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
