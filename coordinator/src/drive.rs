//! Performs a flight's actions: places, calls the workers, feeds their events back, and sends the
//! answer to the client. Dropping a call is its abort, so everything ends with this future.

mod call;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use lava_node::{Planted, Shutdown, World};
use lava_proto::MESSAGE_BYTES_MAX;
use lava_proto::v1::GenerateResponse;
use lava_proto::worker;
use lava_proto::worker::decode_client::DecodeClient;
use lava_proto::worker::prefill_client::PrefillClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use call::{Call, News, next};

use crate::admission::{Admission, Charge, Seat, Who, called};
use crate::answer::Answer;
use crate::convert::Order;
use crate::flight::{
    Action, Answered, Before, DecodeEvent, Event, Flight, FlightError, Plan, PrefillEvent, Retry,
    Ticket,
};
use crate::ledger::Claim;
use crate::metrics::CoordinatorMetrics;
use crate::placement::{Needs, NoPlace, Placement, never};
use crate::request_id::RequestId;
use crate::retry_budget::RetryBudget;
use crate::roster::{Peers, Roster};
use crate::snapshot::Role;
use crate::status::{FailureKind, WorkerFailure};
use crate::wire::{self, AttemptParts};

/// How long the end of an answer waits for the prefill's statistics: a message that is already on its
/// way when the first decode token comes.
const STATS_WAIT: Duration = Duration::from_secs(1);

/// What the choices of a request have in common.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) order: Arc<Order>,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    pub(crate) retry: Retry,
    pub(crate) retry_budget: RetryBudget,
    /// Spreads the pauses between attempts.
    pub(crate) seed: u64,
    pub(crate) world: World,
    pub(crate) roster: Roster,
    pub(crate) admission: Admission,
    /// For whom room is wanted.
    pub(crate) who: Arc<Who>,
    pub(crate) metrics: CoordinatorMetrics,
    /// Triggered when the drain begins.
    pub(crate) closing: Shutdown,
    /// Cancelled when the drain's time is up.
    pub(crate) drained: CancellationToken,
    pub(crate) client: mpsc::Sender<Result<GenerateResponse, Status>>,
}

/// Makes one choice's answer and sends it to the client, its last message included.
///
/// # Errors
/// There is no whole answer; the client has not been told.
pub(crate) async fn drive(
    request: Request,
    choice: u32,
    answer: Answer,
    charge: Charge,
) -> Result<(), FlightError> {
    let order = &request.order;
    let (flight, mut actions) = Flight::new(Plan {
        retry: request.retry,
        seed: request.seed.wrapping_add(choice.into()),
        max_tokens: order.size.max_tokens,
        capped: order.capped,
        end_of_text: Arc::clone(&order.end_of_text),
        stop_token_ids: Arc::clone(&order.stop_token_ids),
        begins_whole_again: request.world.planted(Planted::RetryAfterLastToken),
    });
    let mut driver = Driver {
        choice,
        flight,
        answer,
        attempt: None,
        first_ticket: None,
        seat: None,
        charge,
        prompt_due: order.size.tokens.into(),
        waiting: None,
        wait_until: None,
        stats_late: None,
        pause: None,
        heard: Instant::now(),
        pending: VecDeque::new(),
        has_begun: false,
        unsent: None,
        request,
    };
    loop {
        for action in actions {
            if let Action::End(result) = action {
                return driver.end(result).await;
            }
            driver.perform(action).await;
        }
        let event = match driver.pending.pop_front() {
            Some(event) => event,
            None => driver.event().await,
        };
        if event.is_news() {
            driver.heard = Instant::now();
        }
        let recomputes = driver.flight.recomputes();
        actions = driver.flight.step(event);
        let more = driver.flight.recomputes() - recomputes;
        driver.request.metrics.recomputes.inc_by(more.into());
    }
}

struct Driver {
    request: Request,
    choice: u32,
    flight: Flight,
    answer: Answer,
    attempt: Option<Attempt>,
    /// Of the first attempt.
    first_ticket: Option<Ticket>,
    /// Its place among those who wait or run, since it first wanted room.
    seat: Option<Seat>,
    charge: Charge,
    /// Tokens of the prompt that were not taken out of the charge yet.
    prompt_due: u64,
    /// The attempt that waits to be let in.
    waiting: Option<u32>,
    /// How long it may do so.
    wait_until: Option<Instant>,
    /// The attempt whose statistics are awaited, and until when.
    stats_late: Option<(u32, Instant)>,
    /// The attempt that waits for its next step, and until when.
    pause: Option<(u32, Instant)>,
    /// When a worker last gave a sign of life.
    heard: Instant,
    /// Events that performing actions gave.
    pending: VecDeque<Event>,
    /// A token has been sent.
    has_begun: bool,
    /// Why a message could not be sent. There is no whole answer then, whatever the workers say.
    unsent: Option<FlightError>,
}

/// The calls of one attempt.
struct Attempt {
    number: u32,
    at: Placement,
    prefill_channel: Channel,
    decode_channel: Channel,
    /// host:port of the decode worker's gRPC port.
    decode_address: String,
    /// Until the prefill is over.
    prefill_claim: Option<Claim>,
    decode_claim: Claim,
    prefill: Option<Call<worker::PrefillEvent>>,
    decode: Option<Call<worker::DecodeEvent>>,
}

impl Driver {
    async fn perform(&mut self, action: Action) {
        match action {
            Action::Wait { attempt } => self.wait(attempt),
            Action::Place { attempt } => self.place(attempt),
            Action::Pause {
                attempt,
                pause,
                before,
            } => self.pause(attempt, pause, before),
            Action::OpenDecode { attempt } => self.open_decode(attempt),
            Action::OpenPrefill {
                attempt,
                ticket,
                link_address,
            } => self.open_prefill(attempt, ticket, link_address),
            Action::Emit(tokens) => {
                self.charge.used(tokens.len() as u64);
                if !self.has_begun {
                    self.has_begun = true;
                    let seconds = self.request.began.elapsed().as_secs_f64();
                    self.request.metrics.first_token_seconds.observe(seconds);
                }
                let message = self.answer.push(tokens);
                if self.answer.is_stopped() {
                    // The decode worker ends now, however slowly the client reads.
                    if let Some(attempt) = &mut self.attempt {
                        attempt.decode = None;
                    }
                    self.pending.push_back(Event::StopStringMet);
                }
                if let Err(unsent) = self.send(message).await {
                    self.pending.push_back(match &unsent {
                        FlightError::DeadlinePassed => Event::DeadlinePassed,
                        FlightError::Shutdown => Event::Shutdown,
                        _ => Event::ClientGone,
                    });
                    self.unsent = Some(unsent);
                }
            }
            Action::DropAttempt => {
                let forgets = self.request.world.planted(Planted::ForgottenRelease);
                match self.attempt.take() {
                    Some(attempt) if forgets && attempt.is_half_way() => std::mem::forget(attempt),
                    attempt => drop(attempt),
                }
                self.stats_late = None;
            }
            Action::AwaitStats { attempt } => {
                self.stats_late = Some((attempt, Instant::now() + STATS_WAIT));
            }
            Action::End(_) => unreachable!("the caller takes the end"),
        }
    }

    /// Asks for the turn to look for a place.
    fn wait(&mut self, attempt: u32) {
        let now = Instant::now();
        let until = *self.wait_until.get_or_insert_with(|| {
            let time_left = self.request.deadline.duration_since(now);
            now + self.flight.wait_max(time_left)
        });
        let wait_max = until.duration_since(now);
        let asked = match &mut self.seat {
            Some(seat) => seat.wait(wait_max),
            None => {
                let who = Arc::clone(&self.request.who);
                let joined = self.request.admission.join(who, wait_max);
                joined.map(|seat| self.seat = Some(seat))
            }
        };
        let is_let_in = asked.is_ok() && !self.seat.as_ref().is_some_and(Seat::waits);
        // Whoever would wait for what never comes hears so at once, and not of a queue.
        let never = if is_let_in { None } else { self.never() };
        let event = match (asked, never) {
            (_, Some(why)) => Event::NotPlaced {
                attempt,
                why,
                time_left: self.time_left(now),
            },
            (Err(crowded), None) => Event::Crowded { attempt, crowded },
            (Ok(()), None) if is_let_in => Event::Turn { attempt },
            (Ok(()), None) => {
                self.waiting = Some(attempt);
                return;
            }
        };
        self.pending.push_back(event);
    }

    /// Why no worker could take the request, however long it waited.
    fn never(&self) -> Option<NoPlace> {
        let order = &self.request.order;
        let size = order.size_after(self.flight.emitted().len());
        let seen = self.request.roster.seen();
        never(&seen.snapshot, &order.model, Needs::new(&order.model, size))
    }

    fn place(&mut self, attempt: u32) {
        let seat = self.seat.as_mut().expect("who looks has had a turn");
        seat.looks();
        let order = &self.request.order;
        let size = order.size_after(self.flight.emitted().len());
        let needs = Needs::new(&order.model, size);
        let prompt = order.prompt_and(self.flight.emitted());
        let blocks = self.request.roster.blocks_of(&prompt);
        let placed = self
            .request
            .roster
            .place(&order.model, needs, &blocks, self.flight.shunned());
        let event = match placed {
            Ok(peers) => {
                seat.let_in();
                self.charge.used(std::mem::take(&mut self.prompt_due));
                Event::Placed {
                    attempt,
                    at: self.begin_attempt(attempt, peers),
                }
            }
            Err(why) => Event::NotPlaced {
                attempt,
                why,
                time_left: self.time_left(Instant::now()),
            },
        };
        self.pending.push_back(event);
    }

    fn begin_attempt(&mut self, number: u32, peers: Peers) -> Placement {
        self.request.metrics.attempts.inc();
        let at = Placement {
            prefill: peers.prefill.id.clone(),
            decode: peers.decode.id.clone(),
            pages_max: peers.pages_max,
            missing_tokens: peers.missing_tokens,
        };
        self.request
            .metrics
            .missing_tokens
            .inc_by(at.missing_tokens);
        tracing::debug!(attempt = number, prefill = %at.prefill, decode = %at.decode, "placed");
        self.attempt = Some(Attempt {
            number,
            at: at.clone(),
            prefill_channel: peers.prefill.channel,
            decode_channel: peers.decode.channel,
            decode_address: peers.decode.address,
            prefill_claim: Some(peers.prefill.claim),
            decode_claim: peers.decode.claim,
            prefill: None,
            decode: None,
        });
        at
    }

    fn pause(&mut self, attempt: u32, pause: Duration, before: Before) {
        if before == Before::Retry && !self.request.retry_budget.withdraw() {
            self.request.metrics.retries_denied.inc();
            self.pending.push_back(Event::RetryDenied { attempt });
            return;
        }
        if let Some(seat) = &mut self.seat {
            match before {
                Before::Room => seat.wait_ahead(),
                Before::Look => seat.step_back(),
                Before::Retry => {}
            }
        }
        self.pause = Some((attempt, Instant::now() + pause));
    }

    fn time_left(&self, now: Instant) -> Duration {
        self.request.deadline.duration_since(now)
    }

    fn parts(&self, number: u32) -> AttemptParts<'_> {
        AttemptParts {
            order: &self.request.order,
            request_id: &self.request.id,
            choice: self.choice,
            number,
            emitted: self.flight.emitted(),
            time_left: self.time_left(Instant::now()),
        }
    }

    fn open_decode(&mut self, number: u32) {
        let message = self.parts(number).decode_request();
        let attempt = open_attempt(&mut self.attempt, number);
        let mut client = DecodeClient::new(attempt.decode_channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let call = async move { client.run(message).await };
        attempt.decode = Some(Call::Opening(Box::pin(call)));
    }

    fn open_prefill(&mut self, number: u32, ticket: Ticket, link_address: String) {
        let first = *self.first_ticket.get_or_insert(ticket);
        let reuses = self.request.world.planted(Planted::ReusedTicket);
        let ticket = if reuses { first } else { ticket };
        let message = self.parts(number).prefill_request(ticket, link_address);
        let attempt = open_attempt(&mut self.attempt, number);
        let mut client = PrefillClient::new(attempt.prefill_channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let call = async move { client.run(message).await };
        attempt.prefill = Some(Call::Opening(Box::pin(call)));
    }

    /// Waits for whatever happens next.
    async fn event(&mut self) -> Event {
        let wants_decode = self.flight.wants_decode();
        let stats_late = at(self.stats_late);
        let pause_over = at(self.pause);
        let (waiting, pausing) = (self.waiting, self.pause);
        let waited_out = at(waiting.zip(self.wait_until));
        let is_waiting = waiting.is_some();
        let silence_max = self.flight.silence_max(self.time_left(self.heard));
        let number = self.attempt.as_ref().map(|attempt| attempt.number);
        let silence = at(number.zip(silence_max.map(|most| self.heard + most)));
        let called = called(&mut self.seat);
        let attempt = &mut self.attempt;
        let worker_event = async {
            match attempt {
                Some(attempt) => attempt.event(wants_decode).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.request.client.closed() => Event::ClientGone,
            () = self.request.drained.cancelled() => Event::Shutdown,
            () = sleep_until(self.request.deadline) => Event::DeadlinePassed,
            () = self.request.closing.triggered(), if is_waiting => Event::Draining,
            call = called => match (waiting, pausing, call) {
                (Some(attempt), _, Ok(())) => {
                    self.waiting = None;
                    Event::Turn { attempt }
                }
                (Some(attempt), _, Err(crowded)) => {
                    self.waiting = None;
                    Event::Crowded { attempt, crowded }
                }
                // Room may have appeared, so it does not look at its end but now.
                (None, Some((attempt, until)), _) => {
                    self.pause = None;
                    let left = until.duration_since(Instant::now());
                    Event::Room { attempt, left }
                }
                (None, None, _) => unreachable!("who neither waits nor pauses is not called"),
            },
            attempt = waited_out => {
                self.waiting = None;
                let crowded = self.seat.as_ref().expect("who waits has a seat").waited_out();
                Event::Crowded { attempt, crowded }
            }
            attempt = stats_late => Event::StatsLate { attempt },
            attempt = pause_over => {
                self.pause = None;
                Event::PauseOver { attempt }
            }
            event = worker_event => {
                self.report(&event);
                event
            }
            // After what has come already, however late it is read.
            attempt = silence => {
                tracing::warn!(attempt, "the workers are silent");
                Event::Silence { attempt }
            }
        }
    }

    /// Tells log and roster of a call that failed, and the roster of one that did what it should.
    fn report(&self, event: &Event) {
        let Some(attempt) = &self.attempt else {
            return;
        };
        let worker = |role| match role {
            Role::Prefill => &attempt.at.prefill,
            Role::Decode => &attempt.at.decode,
        };
        if let Some(role) = held(event) {
            self.request.roster.held(worker(role));
        }
        let Some(failure) = event.failure() else {
            return;
        };
        let worker = worker(failure.role);
        tracing::warn!(role = %failure.role, %worker, code = ?failure.code, error = failure.message,
            "a worker's call failed");
        if failure.kind == FailureKind::Broken {
            self.request.roster.broke(worker, self.request.seed);
        }
    }

    /// Waits for room in the client's channel, which is what makes the decode worker wait for a slow
    /// client: meanwhile nobody reads its call.
    async fn send(&mut self, message: GenerateResponse) -> Result<(), FlightError> {
        let Request {
            client,
            drained,
            deadline,
            ..
        } = &self.request;
        tokio::select! {
            biased;
            sent = client.send(Ok(message)) => sent.map_err(|_| FlightError::ClientGone),
            () = drained.cancelled() => Err(FlightError::Shutdown),
            () = sleep_until(*deadline) => Err(FlightError::DeadlinePassed),
        }
    }

    async fn end(mut self, result: Result<Answered, FlightError>) -> Result<(), FlightError> {
        self.attempt = None;
        let answered = result?;
        if let Some(unsent) = self.unsent {
            return Err(unsent);
        }
        let last = self.answer.finish(answered);
        self.send(last).await
    }
}

impl Attempt {
    fn is_half_way(&self) -> bool {
        self.prefill.is_some() && self.decode.is_some()
    }

    /// Waits for an event of either worker.
    async fn event(&mut self, wants_decode: bool) -> Event {
        let attempt = self.number;
        loop {
            tokio::select! {
                biased;
                news = next(&mut self.prefill, Role::Prefill) => {
                    let event = self.prefill_event(news);
                    return Event::Prefill { attempt, event };
                }
                news = next(&mut self.decode, Role::Decode), if wants_decode => {
                    if let Some(event) = self.decode_event(news) {
                        return Event::Decode { attempt, event };
                    }
                }
            }
        }
    }

    fn prefill_event(
        &mut self,
        news: Result<News<worker::PrefillEvent>, WorkerFailure>,
    ) -> PrefillEvent {
        let event = news.and_then(|news| match news {
            News::Accepted => Ok(PrefillEvent::Accepted),
            News::Message(message) => wire::prefill_event(message),
        });
        let event = event.unwrap_or_else(PrefillEvent::Failed);
        match &event {
            PrefillEvent::Accepted => {
                if let Some(claim) = &self.prefill_claim {
                    claim.landed(None);
                }
            }
            PrefillEvent::FirstToken { .. } => {}
            PrefillEvent::Done(_) | PrefillEvent::Failed(_) => {
                self.prefill = None;
                self.prefill_claim = None;
            }
        }
        event
    }

    /// None if there is nothing to tell.
    fn decode_event(
        &mut self,
        news: Result<News<worker::DecodeEvent>, WorkerFailure>,
    ) -> Option<DecodeEvent> {
        let event = match news {
            Ok(News::Accepted) => return None,
            Ok(News::Message(message)) => {
                if let Some(pages) = wire::pages_reserved(&message) {
                    self.decode_claim.landed(Some(pages));
                }
                wire::decode_event(message, &self.decode_address)
            }
            Err(failure) => Err(failure),
        };
        let event = event.unwrap_or_else(DecodeEvent::Failed);
        if matches!(event, DecodeEvent::Done(_) | DecodeEvent::Failed(_)) {
            self.decode = None;
        }
        Some(event)
    }
}

/// The number of an attempt, at its time; never if there is none.
async fn at(time: Option<(u32, Instant)>) -> u32 {
    match time {
        Some((attempt, until)) => {
            sleep_until(until).await;
            attempt
        }
        None => pending().await,
    }
}

fn open_attempt(attempt: &mut Option<Attempt>, number: u32) -> &mut Attempt {
    let attempt = attempt.as_mut().expect("a call is opened in an attempt");
    assert_eq!(attempt.number, number, "of the attempt under way");
    attempt
}

/// Whose call did what it should.
fn held(event: &Event) -> Option<Role> {
    match event {
        Event::Prefill {
            event: PrefillEvent::Done(_),
            ..
        } => Some(Role::Prefill),
        Event::Decode {
            event: DecodeEvent::FirstStep(_) | DecodeEvent::Done(_),
            ..
        } => Some(Role::Decode),
        _ => None,
    }
}
