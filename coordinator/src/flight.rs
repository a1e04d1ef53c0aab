//! The life of one answer as a pure state machine: [`Flight::step`] takes what happened and says what
//! to do. It holds every rule of retry, order and ending, and no I/O; `drive` performs its actions.
//!
//! An attempt opens the decode worker's call first. Its reservation gives the ticket for the prefill
//! worker's call; that one's first token is the answer's next token, and the decode worker goes on from
//! there. The two calls are on two connections, so their events race: decode tokens that overtake the
//! first token are held back, and the end of an answer waits a moment for the prefill's statistics.
//!
//! A call that breaks, or that gives no sign of life in its stage's time, costs the attempt. The next one
//! prefills the prompt and what was emitted, elsewhere if there is an elsewhere. A request waits for its
//! turn to look for room until it has been let in, within bounds; one that lost its workers then looks
//! for others before all who were not let in, within bounds too.

use std::sync::Arc;
use std::time::Duration;

use lava_node::Backoff;
use lava_proto::v1::{FinishReason, Token, TransferStats};

use crate::admission::{Crowd, Crowded};
use crate::placement::{NoPlace, Placement, Scarce, Shunned};
use crate::snapshot::Role;
use crate::status::{FailureKind, WorkerFailure};

mod action;
mod event;

pub(crate) use action::{Action, Answered, Before, FlightError};
pub(crate) use event::{DecodeEvent, Event, PrefillEvent, Ticket};

/// Attempts of one answer whose decode worker let nothing in and said so at once, as one does that is gone or about to go: they
/// cost no work. So many of them do not count among the others, each worker's first.
const UNREACHED_MAX: u32 = 16;

/// Decode tokens to hold back before reading stops until the first token has come. The first token
/// leaves before the cache does, so more than a few mean that the prefill's connection is stuck.
const HELD_TOKENS_MAX: usize = 256;

/// What a flight needs to know of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) retry: Retry,
    /// Spreads the pauses.
    pub(crate) seed: u64,
    /// Tokens of the answer, at least 1.
    pub(crate) max_tokens: u32,
    /// `max_tokens` is what the context leaves, less than was asked for.
    pub(crate) capped: bool,
    /// Ids that end the answer with `END_OF_TEXT`.
    pub(crate) end_of_text: Arc<[u32]>,
    /// Ids that end the answer with `STOP_TOKEN`.
    pub(crate) stop_token_ids: Arc<[u32]>,
    /// A mistake that simulations plant: see [`lava_node::Planted::RetryAfterLastToken`].
    pub(crate) begins_whole_again: bool,
}

/// What is done about faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Attempts of one answer, at least 1.
    pub(crate) attempts_max: u32,
    /// Before each attempt but the first, and between two looks for a place.
    pub(crate) pause: Backoff,
    /// How long an accepted request looks for a place, all its looks together.
    pub(crate) place_wait_max: Duration,
    /// How long a request waits for room until it is let in.
    pub(crate) wait_max: Duration,
    /// Time for a decode worker's reservation.
    pub(crate) reserve_max: Duration,
    /// Time between two signs of life of an answer once its first token has come.
    pub(crate) silence_max: Duration,
}

/// One answer under way.
#[derive(Debug)]
pub(crate) struct Flight {
    plan: Plan,
    attempt: Attempt,
    emitted: Vec<u32>,
    shunned: Shunned,
    recomputes: u32,
    /// Decode workers that let no attempt in.
    unreached: u32,
    last_failure: Option<WorkerFailure>,
    /// What the last look found too little of.
    scarce: Option<Scarce>,
    /// Looks for a place since the last one was found, and the time they took together.
    looks: u32,
    waited: Duration,
}

/// What belongs to one attempt and is forgotten with it.
#[derive(Debug, Default)]
struct Attempt {
    number: u32,
    stage: Stage,
    at: Option<Placement>,
    prefill: Prefill,
    /// The decode worker has sent tokens, so it has the cache.
    decoding: bool,
    first_step: TransferStats,
    held: Vec<Token>,
    done: Option<FinishReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Before its turn to look for a place.
    Waiting,
    #[default]
    Placing,
    /// Before the next look for a place.
    Pausing,
    /// The decode worker's call is open.
    Reserving,
    /// The prefill worker's call is open.
    Prefilling,
    /// The first token has come.
    Answering,
    /// All tokens have come; the prefill's statistics have not.
    AwaitingStats,
    /// Nothing happens any more.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Prefill {
    /// The worker has not taken the prompt in.
    #[default]
    Waiting,
    Begun,
    Done(TransferStats),
    /// The call broke after the cache had arrived: no statistics.
    Lost,
}

impl Flight {
    /// A flight, and what to do first.
    pub(crate) fn new(plan: Plan) -> (Flight, Vec<Action>) {
        assert!(plan.retry.attempts_max > 0 && plan.max_tokens > 0);
        let attempt = Attempt {
            stage: Stage::Waiting,
            ..Attempt::default()
        };
        let flight = Flight {
            plan,
            attempt,
            emitted: Vec::new(),
            shunned: Shunned::default(),
            recomputes: 0,
            unreached: 0,
            last_failure: None,
            scarce: None,
            looks: 0,
            waited: Duration::ZERO,
        };
        (flight, vec![Action::Wait { attempt: 0 }])
    }

    /// The answer so far.
    pub(crate) fn emitted(&self) -> &[u32] {
        &self.emitted
    }

    /// Workers that earlier attempts met faults on.
    pub(crate) fn shunned(&self) -> &Shunned {
        &self.shunned
    }

    /// Times that the prompt was prefilled again.
    pub(crate) fn recomputes(&self) -> u32 {
        self.recomputes
    }

    /// Tokens that may still be made.
    pub(crate) fn tokens_left(&self) -> u32 {
        self.plan
            .max_tokens
            .saturating_sub(self.emitted.len() as u32)
    }

    /// Whether the decode worker's call should be read. Not reading it makes the worker wait.
    pub(crate) fn wants_decode(&self) -> bool {
        self.attempt.held.len() < HELD_TOKENS_MAX
    }

    /// How long it may wait for its turn, with `time_left` for the request when it begins to: what is left
    /// then has to suffice for the answer.
    pub(crate) fn wait_max(&self, time_left: Duration) -> Duration {
        self.plan.retry.wait_max.min(time_left / 2)
    }

    /// How long the workers of this stage may give no sign of life, with `time_left` for the request: a
    /// share of it that leaves time for another attempt. None where the deadline itself is the bound: a
    /// prefill says nothing while it waits and computes, and giving it up early would cost its place in
    /// the queue. A process that is gone or frozen is noticed by its connection.
    pub(crate) fn silence_max(&self, time_left: Duration) -> Option<Duration> {
        let retry = &self.plan.retry;
        match self.attempt.stage {
            Stage::Reserving => Some(retry.reserve_max.min(time_left / 4)),
            Stage::Answering => Some(retry.silence_max.min(time_left / 2)),
            Stage::Waiting
            | Stage::Placing
            | Stage::Pausing
            | Stage::Prefilling
            | Stage::AwaitingStats
            | Stage::Over => None,
        }
    }

    /// Takes an event in.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        if self.attempt.stage == Stage::Over || self.is_stale(&event) {
            return Vec::new();
        }
        match event {
            Event::Turn { attempt } => {
                self.attempt.stage = Stage::Placing;
                // Those that were full may have room by now.
                self.shunned.full.clear();
                vec![Action::Place { attempt }]
            }
            Event::Crowded { crowded, .. } => self.crowded(crowded),
            Event::Draining if self.attempt.stage == Stage::Waiting => {
                self.end(Err(FlightError::Draining))
            }
            // It was let in.
            Event::Draining => Vec::new(),
            Event::Placed { at, .. } => {
                self.attempt.at = Some(at);
                self.attempt.stage = Stage::Reserving;
                (self.looks, self.waited) = (0, Duration::ZERO);
                let attempt = self.attempt.number;
                vec![Action::OpenDecode { attempt }]
            }
            Event::NotPlaced { why, time_left, .. } => self.not_placed(why, time_left),
            Event::PauseOver { attempt } => {
                self.attempt.stage = Stage::Placing;
                vec![Action::Place { attempt }]
            }
            Event::Room { attempt, left } => {
                self.waited = self.waited.saturating_sub(left);
                self.attempt.stage = Stage::Placing;
                vec![Action::Place { attempt }]
            }
            Event::RetryDenied { .. } => {
                let failure = self.last_failure.take();
                self.end(Err(failure.expect("a retry follows a failure").into()))
            }
            Event::Silence { .. } => self.silent(),
            Event::Decode { event, .. } => self.decode(event),
            Event::Prefill { event, .. } => self.prefill(event),
            Event::StatsLate { .. } => self.finish(),
            Event::StopStringMet => match &mut self.attempt.done {
                Some(done) if self.attempt.stage == Stage::AwaitingStats => {
                    *done = FinishReason::StopString;
                    Vec::new()
                }
                _ => self.answered(FinishReason::StopString),
            },
            Event::ClientGone => self.end(Err(FlightError::ClientGone)),
            // The answer is whole and only its statistics are missing.
            Event::DeadlinePassed | Event::Shutdown
                if self.attempt.stage == Stage::AwaitingStats =>
            {
                self.finish()
            }
            Event::DeadlinePassed => self.end(Err(FlightError::DeadlinePassed)),
            Event::Shutdown => self.end(Err(FlightError::Shutdown)),
        }
    }

    fn is_stale(&self, event: &Event) -> bool {
        match event {
            Event::Turn { attempt } | Event::Crowded { attempt, .. } => {
                *attempt != self.attempt.number || self.attempt.stage != Stage::Waiting
            }
            Event::Placed { attempt, .. } => {
                *attempt != self.attempt.number || self.attempt.stage != Stage::Placing
            }
            Event::NotPlaced { attempt, .. } => {
                let looks = matches!(self.attempt.stage, Stage::Waiting | Stage::Placing);
                *attempt != self.attempt.number || !looks
            }
            Event::PauseOver { attempt }
            | Event::Room { attempt, .. }
            | Event::RetryDenied { attempt } => {
                *attempt != self.attempt.number || self.attempt.stage != Stage::Pausing
            }
            Event::Decode { attempt, .. }
            | Event::Prefill { attempt, .. }
            | Event::Silence { attempt }
            | Event::StatsLate { attempt } => *attempt != self.attempt.number,
            _ => false,
        }
    }

    /// A new request, which no worker has let in, waits for room if that is what there is too little of,
    /// and is refused otherwise; any other looks again, as long as its time allows.
    fn not_placed(&mut self, why: NoPlace, time_left: Duration) -> Vec<Action> {
        let attempt = self.attempt.number;
        let is_new = self.emitted.is_empty() && self.shunned.broken.is_empty();
        self.scarce = match why {
            NoPlace::Busy(scarce) => Some(scarce),
            _ => None,
        };
        if is_new && self.scarce.is_some() {
            self.attempt.stage = Stage::Waiting;
            return vec![Action::Wait { attempt }];
        }
        let retry = &self.plan.retry;
        let pause = retry.pause.pause(self.looks + 1, self.random());
        let allowed = self.waited + pause <= retry.place_wait_max && pause < time_left / 2;
        if !is_new && why.may_pass() && allowed {
            self.looks += 1;
            self.waited += pause;
            self.attempt.stage = Stage::Pausing;
            // Those that were full may have room by then.
            self.shunned.full.clear();
            let before = match self.scarce {
                Some(_) => Before::Room,
                None => Before::Look,
            };
            return vec![Action::Pause {
                attempt,
                pause,
                before,
            }];
        }
        self.no_place(why.into())
    }

    /// It may not wait for its turn, or not any longer.
    fn crowded(&mut self, crowded: Crowded) -> Vec<Action> {
        self.no_place(match (crowded.why, self.scarce) {
            // All that there is to say is what it has found.
            (Crowd::NobodyMayWait, Some(scarce)) => NoPlace::Busy(scarce).into(),
            (_, scarce) => FlightError::Crowded { crowded, scarce },
        })
    }

    fn no_place(&mut self, why: FlightError) -> Vec<Action> {
        // What broke says more than that nobody is left to try.
        match self.last_failure.take() {
            Some(failure) => self.end(Err(failure.into())),
            None => self.end(Err(why)),
        }
    }

    /// Another number at each pause, the same in each run.
    fn random(&self) -> u64 {
        let step = u64::from(self.attempt.number) << 32 | u64::from(self.looks);
        // The multiplier of Knuth's MMIX generator spreads the steps.
        (self.plan.seed ^ step).wrapping_mul(6_364_136_223_846_793_005)
    }

    /// The worker that should have said something has not.
    fn silent(&mut self) -> Vec<Action> {
        let (role, awaited) = match self.attempt.stage {
            Stage::Reserving => (Role::Decode, "no reservation came in time"),
            Stage::Answering if self.attempt.decoding => (Role::Decode, "no token came in time"),
            Stage::Answering if matches!(self.attempt.prefill, Prefill::Done(_)) => {
                (Role::Decode, "no first step came in time")
            }
            Stage::Answering => (Role::Prefill, "its cache did not arrive in time"),
            Stage::Waiting
            | Stage::Placing
            | Stage::Pausing
            | Stage::Prefilling
            | Stage::AwaitingStats
            | Stage::Over => return Vec::new(),
        };
        self.fail(WorkerFailure::silent(role, awaited))
    }

    fn decode(&mut self, event: DecodeEvent) -> Vec<Action> {
        match (event, self.attempt.stage) {
            (
                DecodeEvent::Reserved {
                    ticket,
                    link_address,
                },
                Stage::Reserving,
            ) => {
                self.attempt.stage = Stage::Prefilling;
                vec![Action::OpenPrefill {
                    attempt: self.attempt.number,
                    ticket,
                    link_address,
                }]
            }
            (DecodeEvent::FirstStep(stats), Stage::Prefilling | Stage::Answering) => {
                self.attempt.decoding = true;
                self.attempt.first_step = stats;
                Vec::new()
            }
            (DecodeEvent::Tokens(tokens), Stage::Prefilling) if self.attempt.done.is_none() => {
                self.attempt.decoding = true;
                self.attempt.held.extend(tokens);
                Vec::new()
            }
            (DecodeEvent::Tokens(tokens), Stage::Answering) => {
                self.attempt.decoding = true;
                self.emit(tokens)
            }
            (DecodeEvent::Done(done), Stage::Prefilling) if self.attempt.done.is_none() => {
                self.attempt.done = Some(done);
                Vec::new()
            }
            (DecodeEvent::Done(done), Stage::Answering) => {
                self.attempt.done = Some(done);
                self.decode_done()
            }
            // Its part is done.
            (DecodeEvent::Failed(_), _) if self.attempt.done.is_some() => Vec::new(),
            (DecodeEvent::Failed(failure), _) => self.fail(failure),
            _ => {
                let what = "it sent an event out of order";
                self.fail(WorkerFailure::protocol(Role::Decode, what))
            }
        }
    }

    fn prefill(&mut self, event: PrefillEvent) -> Vec<Action> {
        match (event, self.attempt.stage) {
            (PrefillEvent::Accepted, _) => {
                if self.attempt.prefill == Prefill::Waiting {
                    self.attempt.prefill = Prefill::Begun;
                }
                Vec::new()
            }
            (PrefillEvent::FirstToken { token, finish }, Stage::Prefilling) => {
                self.first_token(token, finish)
            }
            (PrefillEvent::Done(stats), Stage::Answering) => {
                self.attempt.prefill = Prefill::Done(stats);
                Vec::new()
            }
            (PrefillEvent::Done(stats), Stage::AwaitingStats) => {
                self.attempt.prefill = Prefill::Done(stats);
                self.finish()
            }
            // The decode worker has the cache and goes on; only the statistics are lost.
            (PrefillEvent::Failed(_), Stage::AwaitingStats) => self.finish(),
            (PrefillEvent::Failed(_), Stage::Answering) if self.attempt.decoding => {
                self.attempt.prefill = Prefill::Lost;
                Vec::new()
            }
            (PrefillEvent::Failed(failure), _) => self.fail(failure),
            _ => {
                let what = "it sent an event out of order";
                self.fail(WorkerFailure::protocol(Role::Prefill, what))
            }
        }
    }

    fn first_token(&mut self, token: Token, finish: Option<FinishReason>) -> Vec<Action> {
        let mut tokens = vec![token];
        if let Some(reason) = finish {
            // Nothing is shipped, so there is nothing that the decode worker could add.
            let mut actions = self.emit(tokens);
            actions.extend(self.answered(reason));
            return actions;
        }
        self.attempt.stage = Stage::Answering;
        tokens.append(&mut self.attempt.held);
        let mut actions = self.emit(tokens);
        if self.attempt.done.is_some() && self.attempt.stage == Stage::Answering {
            actions.extend(self.decode_done());
        }
        actions
    }

    /// All tokens are out and the decode worker is done.
    fn decode_done(&mut self) -> Vec<Action> {
        match self.attempt.prefill {
            Prefill::Done(_) | Prefill::Lost => self.finish(),
            Prefill::Waiting | Prefill::Begun => {
                self.attempt.stage = Stage::AwaitingStats;
                let attempt = self.attempt.number;
                vec![Action::AwaitStats { attempt }]
            }
        }
    }

    /// Ends with what the decode worker said.
    fn finish(&mut self) -> Vec<Action> {
        match self.attempt.done {
            Some(reason) => self.answered(reason),
            None => Vec::new(),
        }
    }

    fn emit(&mut self, tokens: Vec<Token>) -> Vec<Action> {
        if tokens.len() > self.tokens_left() as usize {
            let what = "it made more tokens than it was asked for";
            return self.fail(WorkerFailure::protocol(Role::Decode, what));
        }
        if tokens.is_empty() {
            return Vec::new();
        }
        self.emitted.extend(tokens.iter().map(|token| token.id));
        vec![Action::Emit(tokens)]
    }

    /// Ends well.
    fn answered(&mut self, reason: FinishReason) -> Vec<Action> {
        let first_step = self.attempt.first_step;
        let prefill_stats = match self.attempt.prefill {
            Prefill::Done(stats) => stats,
            _ => TransferStats::default(),
        };
        let reason = match reason {
            FinishReason::MaxTokens if self.plan.capped => FinishReason::Context,
            reason => reason,
        };
        self.end(Ok(Answered {
            reason,
            stats: TransferStats {
                first_step_wait_ms: first_step.first_step_wait_ms,
                first_step_ms: first_step.first_step_ms,
                recomputes: self.recomputes,
                ..prefill_stats
            },
        }))
    }

    fn end(&mut self, result: Result<Answered, FlightError>) -> Vec<Action> {
        self.attempt.stage = Stage::Over;
        vec![Action::DropAttempt, Action::End(result)]
    }

    /// A call of this attempt ended badly: the next attempt, if there is one.
    fn fail(&mut self, failure: WorkerFailure) -> Vec<Action> {
        if let Some(reason) = self.whole()
            && !self.plan.begins_whole_again
        {
            return self.answered(reason);
        }
        let number = self.attempt.number + 1;
        let decode = self.attempt.at.as_ref().map(|at| &at.decode);
        let is_new = decode.is_some_and(|decode| !self.shunned.broken.contains_key(decode));
        let is_shut = self.attempt.stage == Stage::Reserving && failure.is_quick();
        self.unreached += u32::from(is_new && is_shut);
        let spent = number - self.unreached.min(UNREACHED_MAX);
        if failure.kind == FailureKind::Final || spent >= self.plan.retry.attempts_max {
            return self.end(Err(failure.into()));
        }
        if let Some(at) = &self.attempt.at {
            let worker = match failure.role {
                Role::Prefill => at.prefill.clone(),
                Role::Decode => at.decode.clone(),
            };
            // Of a prefill that broke under way, nobody knows which end of the link was at fault.
            if failure.role == Role::Prefill && failure.kind == FailureKind::Broken {
                self.shunned.broke(at.decode.clone());
            }
            match failure.kind {
                FailureKind::Full => drop(self.shunned.full.insert(worker)),
                FailureKind::Broken | FailureKind::Final => {
                    self.shunned.broke(worker);
                    let pair = (at.prefill.clone(), at.decode.clone());
                    self.shunned.pairs.insert(pair);
                }
            }
        }
        if self.attempt.prefill != Prefill::Waiting {
            self.recomputes += 1;
        }
        self.last_failure = Some(failure);
        self.attempt = Attempt {
            number,
            ..Attempt::default()
        };
        self.attempt.stage = Stage::Pausing;
        let pause = Action::Pause {
            attempt: number,
            pause: self.plan.retry.pause.pause(number, self.random()),
            before: Before::Retry,
        };
        vec![Action::DropAttempt, pause]
    }

    /// Why the answer is whole, if what was emitted says so, although no worker could.
    fn whole(&self) -> Option<FinishReason> {
        let last = self.emitted.last()?;
        if self.plan.end_of_text.contains(last) {
            return Some(FinishReason::EndOfText);
        }
        if self.plan.stop_token_ids.contains(last) {
            return Some(FinishReason::StopToken);
        }
        (self.tokens_left() == 0).then_some(FinishReason::MaxTokens)
    }
}

#[cfg(test)]
mod tests;
