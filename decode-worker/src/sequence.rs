//! A sequence whose cache is whole.

use std::time::Duration;

use lava_engine::{EngineError, RaggedCache, Sampler};
use lava_node::Held;
use lava_proto::v1::TransferStats;
use lava_proto::worker::decode_event::Event;
use lava_proto::worker::{DecodeDone, FirstStep, Tokens};
use lava_worker::{Attempt, Refusal, Stage, finish_after, sampled_to_wire};
use tokio::time::Instant;

use crate::batch::Live;
use crate::output::Output;

/// Room in an output that a step may need: its times if it is the first, a token, the end.
pub(crate) const ROOM_MIN: usize = 3;

/// A running sequence. Dropping it frees its pages.
#[derive(Debug)]
pub(crate) struct Sequence {
    attempt: Attempt,
    pub(crate) cache: RaggedCache,
    sampler: Sampler,
    output: Output,
    /// The token that the next step appends.
    pub(crate) token: u32,
    /// Tokens of this attempt so far.
    made: usize,
    sealed: Instant,
    /// From the seal to the first step.
    first_step_wait: Duration,
    /// Since when there is no room for its output.
    paused: Option<Instant>,
    pub(crate) span: tracing::Span,
    _shown: Held,
}

/// What becomes of a sequence before a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It takes part.
    Ready,
    /// Its caller must take tokens first.
    Paused,
    /// Its caller left.
    Left,
    /// It is out of time, or its caller took nothing for too long.
    Overdue(Overdue),
}

/// Which time is up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The request's.
    Deadline,
    /// The caller's.
    Stall,
}

impl Sequence {
    pub(crate) fn new(live: Live) -> Self {
        let Live {
            slot,
            first_token,
            sealed,
        } = live;
        tracing::debug!(parent: &slot.span, rows = slot.cache.rows(), "cache whole");
        Self {
            sampler: slot.sampler.resume(&[first_token]),
            attempt: slot.attempt,
            cache: slot.cache,
            output: slot.output,
            token: first_token,
            made: 1,
            sealed,
            first_step_wait: Duration::ZERO,
            paused: None,
            span: slot.span,
            _shown: slot.shown,
        }
    }

    /// Whether it takes part in the next step.
    pub(crate) fn turn(&mut self, now: Instant, stall_timeout: Duration) -> Turn {
        if self.output.is_closed() {
            return Turn::Left;
        }
        if now >= self.attempt.deadline {
            return Turn::Overdue(Overdue::Deadline);
        }
        if self.output.room() >= ROOM_MIN {
            self.paused = None;
            return Turn::Ready;
        }
        let since = *self.paused.get_or_insert(now);
        match now - since >= stall_timeout {
            true => Turn::Overdue(Overdue::Stall),
            false => Turn::Paused,
        }
    }

    /// A step begins with this sequence in it.
    pub(crate) fn step_began(&mut self, now: Instant) {
        if self.made == 1 {
            self.first_step_wait = now - self.sealed;
        }
    }

    /// Takes the logits of a step of `took`; true if the answer ended.
    ///
    /// # Errors
    /// The logits hold no number.
    pub(crate) fn advance(&mut self, logits: &[f32], took: Duration) -> Result<bool, EngineError> {
        let sampled = self.sampler.sample(logits)?;
        if self.made == 1 {
            self.output.send(Event::FirstStep(FirstStep {
                stats: Some(TransferStats {
                    first_step_wait_ms: self.first_step_wait.as_secs_f64() * 1e3,
                    first_step_ms: took.as_secs_f64() * 1e3,
                    ..Default::default()
                }),
            }));
        }
        self.made += 1;
        self.token = sampled.token;
        let token = sampled_to_wire(&sampled, &self.attempt);
        self.output.send(Event::Tokens(Tokens {
            tokens: vec![token],
        }));
        let finish = finish_after(&self.attempt, sampled.token, self.made);
        if let Some(reason) = finish {
            let reason = reason.into();
            self.output.send(Event::Done(DecodeDone { reason }));
        }
        Ok(finish.is_some())
    }

    /// Ends it with an error.
    pub(crate) fn fail(self, refusal: Refusal) {
        tracing::info!(parent: &self.span, %refusal, "ended");
        self.output.fail(refusal);
    }

    /// The error of a sequence that is out of time.
    pub(crate) fn overdue(&self, overdue: Overdue, stall_timeout: Duration) -> Refusal {
        match overdue {
            Overdue::Deadline => Refusal::Deadline {
                stage: Stage::Decode,
            },
            Overdue::Stall => Refusal::SlowClient {
                seconds: stall_timeout.as_secs(),
                events: self.output.waiting(),
            },
        }
    }
}
