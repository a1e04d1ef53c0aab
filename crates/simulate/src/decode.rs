//! A simulated decode worker: it reserves what a real one would, takes caches in, and makes tokens step by step.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use lava_kv::{Inbound, Receipt, Ticket};
use lava_node::{Held as Shown, Planted, World};
use lava_proto::v1::{FinishReason, Token, TransferStats};
use lava_proto::worker::cache_link_server::CacheLink;
use lava_proto::worker::decode_event::Event;
use lava_proto::worker::decode_server::Decode;
use lava_proto::worker::{
    DecodeDone, DecodeEvent, DecodeRequest, FirstStep, LaneMessage, LaneReply, Load, Reserved,
    ShipMessage, ShipReply, Tokens,
};
use lava_transfer::{Inbox, Lanes, Part};
use lava_worker::{Refusal, Stage};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::attempt::Attempt;
use crate::fault::{Dice, Fault, FaultKind, FaultStage};
use crate::gauges::Gauges;
use crate::model::Model;
use crate::profile::DecodeTimes;

/// Messages that wait for one caller; one that takes none pauses its own sequence only.
const MESSAGES_MAX: usize = 64;
/// Room for the last words of an answer.
const LAST_WORDS: usize = 3;
const FRAMES_IN_FLIGHT_MAX: u32 = 16;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long steps wait while all sequences are paused.
const PAUSED_WAIT: Duration = Duration::from_millis(2);

/// The services; cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct DecodeService {
    pub(crate) world: World,
    pub(crate) model: Arc<Model>,
    pub(crate) times: DecodeTimes,
    pub(crate) dice: Arc<Dice>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) tickets: Arc<Mutex<HashMap<Ticket, Slot>>>,
    /// With a place for each slot.
    pub(crate) batch: mpsc::Sender<Sequence>,
}

/// What is set aside.
#[derive(Debug)]
pub(crate) struct Memory {
    pages_total: u64,
    page_bytes: usize,
    slots_max: usize,
    held: Mutex<Held>,
    gauges: Gauges,
}

#[derive(Debug, Default)]
struct Held {
    pages: u64,
    slots: usize,
}

/// Pages and a slot; freed by drop.
#[derive(Debug)]
struct Reservation {
    memory: Arc<Memory>,
    pages: u64,
    _shown: [Shown; 3],
}

/// What waits for its cache.
#[derive(Debug)]
pub(crate) struct Slot {
    attempt: Attempt,
    reservation: Reservation,
    output: Output,
    /// Counts it as a ticket, and as a transfer once that has begun.
    shown: Shown,
}

type Output = mpsc::Sender<Result<DecodeEvent, Status>>;

/// A sequence that makes tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    attempt: Attempt,
    _reservation: Arc<Reservation>,
    output: Output,
    last: u32,
    /// The first token, which prefill made, included.
    made: usize,
    /// When its cache was here, or its last token out: what is late is late from there.
    since: Instant,
    /// All tokens are out.
    ended: Option<FinishReason>,
    fault: Option<Fault>,
}

/// A caller's events. If it leaves before its cache came, its ticket is given back.
#[derive(Debug)]
pub(crate) struct Answer {
    events: mpsc::Receiver<Result<DecodeEvent, Status>>,
    ticket: Ticket,
    tickets: Arc<Mutex<HashMap<Ticket, Slot>>>,
    _expiry: AbortOnDropHandle<()>,
}

impl Memory {
    pub(crate) fn new(model: &Model, times: &DecodeTimes, gauges: Gauges) -> Self {
        Self {
            pages_total: times.cache_bytes / model.page_bytes() as u64,
            page_bytes: model.page_bytes(),
            slots_max: times.slots_max,
            held: Mutex::default(),
            gauges,
        }
    }

    pub(crate) fn load(&self) -> Load {
        let held = lock(&self.held);
        Load {
            pages_reserved: held.pages,
            pages_total: self.pages_total,
            page_bytes: self.page_bytes as u32,
            slots: held.slots as u32,
            slots_max: self.slots_max as u32,
            ..Default::default()
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.held).slots == 0
    }

    fn reserve(self: &Arc<Self>, pages: u64) -> Result<Reservation, Refusal> {
        let mut held = lock(&self.held);
        let full = |what, found, most| Err(Refusal::Full { what, found, most });
        if held.slots == self.slots_max {
            let most = self.slots_max as u64;
            return full("sequences on the decode worker", most + 1, most);
        }
        if held.pages + pages > self.pages_total {
            return full("cache pages", held.pages + pages, self.pages_total);
        }
        held.pages += pages;
        held.slots += 1;
        let (gauges, bytes) = (&self.gauges, pages * self.page_bytes as u64);
        Ok(Reservation {
            memory: Arc::clone(self),
            pages,
            _shown: [
                Shown::new(gauges.slots.clone(), 1),
                Shown::new(gauges.pages.clone(), pages as i64),
                Shown::new(gauges.cache_bytes.clone(), bytes as i64),
            ],
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = lock(&self.memory.held);
        held.pages -= self.pages;
        held.slots -= 1;
    }
}

#[tonic::async_trait]
impl Decode for DecodeService {
    type RunStream = Answer;

    async fn run(&self, request: Request<DecodeRequest>) -> Result<Response<Answer>, Status> {
        let request = request.into_inner();
        let attempt = Attempt::check(request.attempt.unwrap_or_default(), &self.model)?;
        let rows_max = attempt.rows_grown_max() as u64;
        if request.rows_max != rows_max {
            return Err(Refusal::Field {
                field: "rows_max",
                found: request.rows_max.to_string(),
                expected: format!("{rows_max}, by the attempt's policy, budget and max_tokens"),
            }
            .into());
        }
        let pages = attempt.pages_max(self.memory.page_bytes) as u64;
        let reservation = self.memory.reserve(pages)?;
        self.dice
            .meet_until(attempt.deadline, FaultStage::Accept, Stage::Reserved)
            .await?;
        let ticket = self.ticket()?;
        let (output, events) = mpsc::channel(MESSAGES_MAX);
        send(
            &output,
            Event::Reserved(Reserved {
                ticket: ticket.0.to_vec().into(),
                link_address: String::new(),
                pages,
            }),
        );
        let expiry = self.expire(ticket, attempt.deadline);
        let slot = Slot {
            attempt,
            reservation,
            output,
            shown: Shown::new(self.memory.gauges.tickets.clone(), 1),
        };
        lock(&self.tickets).insert(ticket, slot);
        let tickets = Arc::clone(&self.tickets);
        Ok(Response::new(Answer {
            events,
            ticket,
            tickets,
            _expiry: expiry,
        }))
    }
}

#[tonic::async_trait]
impl CacheLink for DecodeService {
    type ShipStream = ReceiverStream<Result<ShipReply, Status>>;
    type LaneStream = ReceiverStream<Result<LaneReply, Status>>;

    async fn ship(
        &self,
        request: Request<Streaming<ShipMessage>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (replies, stream) = mpsc::channel(FRAMES_IN_FLIGHT_MAX as usize + 2);
        let service = self.clone();
        tokio::spawn(async move {
            let received = service.receive(request.into_inner(), replies.clone()).await;
            if let Err(status) = received {
                let _ = replies.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lane(
        &self,
        _request: Request<Streaming<LaneMessage>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        Err(Refusal::from(lava_transfer::LaneError::NoFabric).into())
    }
}

impl DecodeService {
    fn ticket(&self) -> Result<Ticket, Refusal> {
        let stopped = |_| Refusal::Stopped {
            part: "random generator",
        };
        let high = self.world.random().map_err(stopped)?;
        let low = self.world.random().map_err(stopped)?;
        let number = u128::from(high) << 64 | u128::from(low);
        Ok(Ticket(number.to_be_bytes()))
    }

    /// Ends a slot whose transfer does not come in time.
    fn expire(&self, ticket: Ticket, deadline: Instant) -> AbortOnDropHandle<()> {
        let tickets = Arc::clone(&self.tickets);
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep_until(deadline).await;
            let expired = lock(&tickets).remove(&ticket);
            if let Some(slot) = expired {
                let stage = Stage::Reserved;
                let _ = slot
                    .output
                    .try_send(Err(Refusal::Deadline { stage }.into()));
            }
        }))
    }

    async fn receive(
        &self,
        messages: Streaming<ShipMessage>,
        replies: mpsc::Sender<Result<ShipReply, Status>>,
    ) -> Result<(), Status> {
        let stage = Stage::Transfer;
        let (header, mut inbox) = timeout(
            HEADER_TIMEOUT,
            Inbox::open(messages, replies, &Lanes::none()),
        )
        .await
        .map_err(|_| Refusal::Deadline { stage })?
        .map_err(Refusal::from)?;
        let slot = lock(&self.tickets).remove(&header.ticket);
        let mut slot = slot.ok_or(Refusal::NoReservation)?;
        slot.shown = Shown::new(self.memory.gauges.transfers.clone(), 1);
        // Whatever a fault makes of it.
        let filled = tokio::select! {
            biased;
            filled = timeout_at(slot.attempt.deadline, self.fill(&slot, header, &mut inbox)) => {
                filled.unwrap_or(Err(Refusal::Deadline { stage }.into()))
            }
            () = slot.output.closed() => Err(Refusal::CallerLeft { stage }.into()),
        };
        let (receipt, last) = match filled {
            Ok(filled) => filled,
            Err(status) => {
                let _ = slot.output.try_send(Err(status.clone()));
                return Err(status);
            }
        };
        let sequence = Sequence {
            attempt: slot.attempt,
            _reservation: Arc::new(slot.reservation),
            output: slot.output,
            last,
            made: 1,
            since: Instant::now(),
            ended: None,
            fault: self.dice.throw(FaultStage::Decode),
        };
        if self.world.planted(Planted::DoubleCommit) && sequence.attempt.number > 0 {
            let _ = self.batch.try_send(sequence.clone());
        }
        let _ = self.batch.try_send(sequence);
        inbox.receipt(receipt).await;
        Ok(())
    }

    async fn fill(
        &self,
        slot: &Slot,
        header: lava_kv::Header,
        inbox: &mut Inbox,
    ) -> Result<(Receipt, u32), Status> {
        let expected = slot.attempt.header(header.ticket, self.model.fingerprint);
        let rows_max = slot.attempt.kept_max as u64;
        let inbound = Inbound::new(&header, &expected, rows_max);
        let mut inbound = inbound.map_err(Refusal::from)?;
        self.dice.meet(FaultStage::Transfer).await?;
        inbox.grant(FRAMES_IN_FLIGHT_MAX).await;
        loop {
            match inbox.next().await.map_err(Refusal::from)? {
                Part::Frame(frame) => {
                    inbound.accept(&frame).map_err(Refusal::from)?;
                    inbox.grant(1).await;
                }
                Part::Seal(seal) => {
                    let receipt = inbound.seal(&seal).map_err(Refusal::from)?;
                    return Ok((receipt, seal.first_token));
                }
            }
        }
    }

    /// Steps over all sequences, for ever.
    pub(crate) async fn steps(self, mut arrivals: mpsc::Receiver<Sequence>) {
        let mut sequences: Vec<Sequence> = Vec::new();
        // When the last step ended, had it taken no more than its time.
        let mut ended = Instant::now();
        loop {
            if sequences.is_empty() {
                match arrivals.recv().await {
                    Some(sequence) => sequences.push(sequence),
                    None => return,
                }
                ended = Instant::now();
            }
            while let Ok(sequence) = arrivals.try_recv() {
                sequences.push(sequence);
            }
            let step = self.times.of(sequences.len());
            if !step.is_zero() {
                // One that is a whole step late is not caught up with.
                ended = (ended + step).max(Instant::now() - step);
                sleep_until(ended).await;
            }
            let before: usize = sequences.iter().map(|sequence| sequence.made).sum();
            sequences.retain_mut(|sequence| self.step(sequence));
            let after: usize = sequences.iter().map(|sequence| sequence.made).sum();
            match before == after && !sequences.is_empty() {
                true => sleep(PAUSED_WAIT).await,
                // Others have a turn where steps take no time.
                false => tokio::task::yield_now().await,
            }
        }
    }

    /// Makes a sequence's next tokens; whether it goes on.
    fn step(&self, sequence: &mut Sequence) -> bool {
        let output = &sequence.output;
        let now = Instant::now();
        if output.is_closed() {
            return false;
        }
        if now >= sequence.attempt.deadline {
            let stage = Stage::Decode;
            let _ = output.try_send(Err(Refusal::Deadline { stage }.into()));
            return false;
        }
        if let Some(fault) = sequence.fault {
            match fault.kind {
                // From the second step on.
                _ if sequence.made == 1 => {}
                FaultKind::Late if now < sequence.since + fault.late => return true,
                FaultKind::Late => sequence.fault = None,
                FaultKind::Stall => return true,
                FaultKind::Vanish => {
                    self.dice.vanish();
                    return true;
                }
                FaultKind::Refuse | FaultKind::Break | FaultKind::Corrupt => {
                    let _ = output.try_send(Err(Status::unavailable("broken as told")));
                    return false;
                }
            }
        }
        // Its caller reads slowly.
        if output.capacity() <= LAST_WORDS {
            return true;
        }
        if let Some(reason) = sequence.ended {
            send_done(output, reason);
            return false;
        }
        if sequence.made == 1 {
            send(output, Event::FirstStep(first_step(sequence.since)));
        }
        let mut tokens = Vec::new();
        let mut finish = None;
        let base = sequence.attempt.shape.tokens;
        while finish.is_none() && tokens.len() < self.times.tokens_per_message {
            // The first token, at position N, is what the second one follows.
            sequence.last = self.model.next(sequence.last, base + sequence.made);
            sequence.made += 1;
            tokens.push(Token {
                id: sequence.last,
                ..Default::default()
            });
            finish = sequence.attempt.finish(sequence.last, sequence.made);
        }
        send(output, Event::Tokens(Tokens { tokens }));
        let Some(reason) = finish else { return true };
        sequence.ended = finish;
        sequence.since = now;
        sequence.fault = self.dice.throw(FaultStage::Finish);
        if sequence.fault.is_none() {
            send_done(output, reason);
        }
        sequence.fault.is_some()
    }
}

fn first_step(sealed: Instant) -> FirstStep {
    let wait = sealed.elapsed().as_secs_f64() * 1e3;
    FirstStep {
        stats: Some(TransferStats {
            first_step_wait_ms: wait,
            ..Default::default()
        }),
    }
}

impl Stream for Answer {
    type Item = Result<DecodeEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.tickets).remove(&self.ticket);
    }
}

fn send_done(output: &Output, reason: FinishReason) {
    let reason = reason.into();
    send(output, Event::Done(DecodeDone { reason }));
}

/// To a caller for whom there is room, or who left.
fn send(output: &Output, event: Event) {
    let _ = output.try_send(Ok(DecodeEvent { event: Some(event) }));
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
