//! The life of one answer as a pure state machine: [`Flight::step`] takes what happened and says what
//! to do. It holds every rule of retry, order and ending, and no I/O; `drive` performs its actions.
//!
//! An attempt opens the decode worker's call first. Its reservation gives the ticket for the prefill
//! worker's call; that one's first token is the answer's next token, and the decode worker goes on from
//! there. The two calls are on two connections, so their events race: decode tokens that overtake the
//! first token are held back, and the end of an answer waits a moment for the prefill's statistics.

use std::sync::Arc;

use lava_proto::v1::{FinishReason, Token, TransferStats};

use crate::placement::{NoPlace, Placement, Shunned};
use crate::snapshot::Role;
use crate::status::{FailureKind, WorkerFailure};

/// Decode tokens to hold back before reading stops until the first token has come. The first token
/// leaves before the cache does, so more than a few mean that the prefill's connection is stuck.
const HELD_TOKENS_MAX: usize = 256;

/// What a flight needs to know of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// At least 1.
    pub(crate) attempts_max: u32,
    /// Tokens of the answer, at least 1.
    pub(crate) max_tokens: u32,
    /// `max_tokens` is what the context leaves, less than was asked for.
    pub(crate) capped: bool,
    /// Ids that end the answer with `END_OF_TEXT`.
    pub(crate) end_of_text: Arc<[u32]>,
    /// Ids that end the answer with `STOP_TOKEN`.
    pub(crate) stop_token_ids: Arc<[u32]>,
}

/// What happened. Events of workers carry the number of the attempt that they belong to; those of an
/// attempt that is over change nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// An [`Action::Place`] found workers.
    Placed { attempt: u32, at: Placement },
    /// It did not.
    NotPlaced { attempt: u32, why: NoPlace },
    /// From the decode worker's call.
    Decode { attempt: u32, event: DecodeEvent },
    /// From the prefill worker's call.
    Prefill { attempt: u32, event: PrefillEvent },
    /// The statistics did not come in time.
    StatsLate { attempt: u32 },
    /// A stop string was met in what was emitted.
    StopStringMet,
    /// The client ended its call.
    ClientGone,
    /// The request's time is up.
    DeadlinePassed,
    /// The drain's time is up.
    Shutdown,
}

/// From a decode worker's call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DecodeEvent {
    /// `ticket` opens the worker's link at `link_address`, host:port.
    Reserved {
        ticket: Ticket,
        link_address: String,
    },
    /// The answer goes on.
    Tokens(Vec<Token>),
    /// It has the cache and made the first step: its part of the statistics.
    FirstStep(TransferStats),
    /// The answer ended.
    Done(FinishReason),
    /// The call ended badly.
    Failed(WorkerFailure),
}

/// From a prefill worker's call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PrefillEvent {
    /// It has taken the prompt in.
    Accepted,
    /// The answer's next token, and the reason if it is the last one.
    FirstToken {
        token: Token,
        finish: Option<FinishReason>,
    },
    /// The decode worker has the cache.
    Done(TransferStats),
    /// The call ended badly.
    Failed(WorkerFailure),
}

/// Who has it may ship a cache, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) [u8; 16]);

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Find workers, apart from [`Flight::shunned`], and say so.
    Place { attempt: u32 },
    /// Call the decode worker.
    OpenDecode { attempt: u32 },
    /// Call the prefill worker.
    OpenPrefill {
        attempt: u32,
        ticket: Ticket,
        link_address: String,
    },
    /// Show these to the client.
    Emit(Vec<Token>),
    /// End both calls.
    DropAttempt,
    /// Say when the statistics are late.
    AwaitStats { attempt: u32 },
    /// It is over.
    End(Result<Answered, FlightError>),
}

/// An answer that is whole. A stop string met in its last tokens replaces the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answered {
    pub(crate) reason: FinishReason,
    pub(crate) stats: TransferStats,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlightError {
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    #[error("the deadline passed before the answer was whole")]
    DeadlinePassed,
    #[error("the client ended the call")]
    ClientGone,
    #[error("the coordinator is shutting down and the answer took too long")]
    Shutdown,
}

/// One answer under way.
#[derive(Debug)]
pub(crate) struct Flight {
    plan: Plan,
    attempt: Attempt,
    emitted: Vec<u32>,
    shunned: Shunned,
    recomputes: u32,
    last_failure: Option<WorkerFailure>,
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
    #[default]
    Placing,
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
        assert!(plan.attempts_max > 0 && plan.max_tokens > 0);
        let flight = Flight {
            plan,
            attempt: Attempt::default(),
            emitted: Vec::new(),
            shunned: Shunned::default(),
            recomputes: 0,
            last_failure: None,
        };
        (flight, vec![Action::Place { attempt: 0 }])
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

    /// Takes an event in.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        if self.attempt.stage == Stage::Over || self.is_stale(&event) {
            return Vec::new();
        }
        match event {
            Event::Placed { at, .. } => {
                self.attempt.at = Some(at);
                self.attempt.stage = Stage::Reserving;
                let attempt = self.attempt.number;
                vec![Action::OpenDecode { attempt }]
            }
            // What broke says more than that nobody is left to try.
            Event::NotPlaced { why, .. } => match self.last_failure.take() {
                Some(failure) => self.end(Err(failure.into())),
                None => self.end(Err(why.into())),
            },
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
            Event::Placed { attempt, .. } | Event::NotPlaced { attempt, .. } => {
                *attempt != self.attempt.number || self.attempt.stage != Stage::Placing
            }
            Event::Decode { attempt, .. }
            | Event::Prefill { attempt, .. }
            | Event::StatsLate { attempt } => *attempt != self.attempt.number,
            _ => false,
        }
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
        if let Some(reason) = self.whole() {
            return self.answered(reason);
        }
        let number = self.attempt.number + 1;
        if failure.kind == FailureKind::Final || number >= self.plan.attempts_max {
            return self.end(Err(failure.into()));
        }
        if let Some(at) = &self.attempt.at {
            let worker = match failure.role {
                Role::Prefill => at.prefill.clone(),
                Role::Decode => at.decode.clone(),
            };
            match failure.kind {
                FailureKind::Full => self.shunned.full.insert(worker),
                FailureKind::Broken | FailureKind::Final => self.shunned.broken.insert(worker),
            };
            // Of a prefill that broke under way, nobody knows which end of the link was at fault.
            if failure.role == Role::Prefill && failure.kind == FailureKind::Broken {
                self.shunned.broken.insert(at.decode.clone());
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
        vec![Action::DropAttempt, Action::Place { attempt: number }]
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
