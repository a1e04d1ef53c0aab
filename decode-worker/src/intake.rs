//! The service `CacheLink`: a transfer into the pages of its slot.

use lava_kv::{Inbound, Receipt};
use lava_node::Held;
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::{LaneMessage, LaneReply, ShipMessage, ShipReply};
use lava_transfer::{Inbox, Lanes, Part};
use lava_worker::{Refusal, Stage};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::batch::{Batch, Live};
use crate::metrics::Counters;
use crate::slot::Slot;
use crate::tickets::Tickets;

/// Time for the header of a transfer; who opens one has it at hand.
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Takes caches in.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) lanes: Lanes,
    pub(crate) tickets: Tickets,
    pub(crate) batch: Batch,
    pub(crate) frames_in_flight_max: u32,
    pub(crate) counters: Counters,
}

#[tonic::async_trait]
impl CacheLink for Intake {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(self.frames_in_flight_max as usize + 2);
        let intake = self.clone();
        tokio::spawn(async move {
            let _shown = Held::new(intake.counters.transfers.clone(), 1);
            if let Err(refusal) = intake.receive(request.into_inner(), replies.clone()).await {
                intake.counters.transfers_refused.inc();
                let _ = replies.try_send(Err(refusal));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lane(
        &self,
        request: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        // What it is named by, and how it ended.
        let (replies, stream) = mpsc::channel(2);
        let lanes = self.lanes.clone();
        tokio::spawn(async move {
            let ended = lanes.run(request.into_inner(), replies.clone()).await;
            if let Err(refusal) = ended.map_err(Refusal::from) {
                tracing::info!(%refusal, "lane ended");
                let _ = replies.try_send(Err(refusal.into()));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Intake {
    async fn receive(
        &self,
        messages: Streaming<ShipMessage>,
        replies: mpsc::Sender<Result<ShipReply, Status>>,
    ) -> Result<(), Status> {
        let stage = Stage::Transfer;
        let (header, inbox) = timeout(HEADER_TIMEOUT, Inbox::open(messages, replies, &self.lanes))
            .await
            .map_err(|_| Refusal::Deadline { stage })?
            .map_err(Refusal::from)?;
        let slot = self.tickets.take(header.ticket)?;
        let span = slot.span.clone();
        let filling = self.fill(slot, header, inbox);
        tracing::Instrument::instrument(filling, span).await
    }

    /// Fills the slot and hands it to the batch; or ends it, and tells its caller why.
    async fn fill(
        &self,
        mut slot: Slot,
        header: lava_kv::Header,
        mut inbox: Inbox,
    ) -> Result<(), Status> {
        let deadline = slot.attempt.deadline;
        let filled = timeout_at(deadline, self.rows(&mut slot, header, &mut inbox)).await;
        let stage = Stage::Transfer;
        let refusal = match filled.unwrap_or(Err(Refusal::Deadline { stage })) {
            Ok((receipt, first_token)) => {
                let live = Live {
                    slot,
                    first_token,
                    sealed: Instant::now(),
                };
                self.batch.submit(live)?;
                inbox.receipt(receipt).await;
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        tracing::info!(%refusal, "transfer ended");
        let status = Status::from(refusal);
        match slot.output.is_closed() {
            true => self.counters.cancelled(Stage::Transfer),
            false => drop(self.counters.failed.inc()),
        }
        slot.output.fail_with(status.clone());
        Err(status)
    }

    async fn rows(
        &self,
        slot: &mut Slot,
        header: lava_kv::Header,
        inbox: &mut Inbox,
    ) -> Result<(Receipt, u32), Refusal> {
        let mut inbound = Inbound::new(&header, &slot.header, slot.rows_max)?;
        inbox.grant(self.frames_in_flight_max).await;
        loop {
            let part = tokio::select! {
                part = inbox.next() => part?,
                () = slot.output.closed() => {
                    return Err(Refusal::CallerLeft { stage: Stage::Transfer });
                }
            };
            match part {
                Part::Frame(frame) => {
                    let arrived = inbound.accept(&frame)?;
                    slot.cache.receive(&arrived)?;
                    inbox.grant(1).await;
                }
                Part::Seal(seal) => {
                    let receipt = inbound.seal(&seal)?;
                    self.counters.received_bytes.inc_by(inbound.payload_bytes());
                    return Ok((receipt, seal.first_token));
                }
            }
        }
    }
}
