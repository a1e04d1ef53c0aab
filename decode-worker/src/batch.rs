//! The thread that the engine runs on: one step after another over all sequences that can take part.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use lava_engine::{EngineError, Turn as EngineTurn};
use lava_worker::{Loaded, Refusal, Stage};
use tokio::time::Instant;

use crate::config::DecodeSection;
use crate::metrics::Counters;
use crate::sequence::{Overdue, Sequence, Turn};
use crate::slot::Slot;

/// How long the thread waits for a new sequence while all others are paused.
const PAUSED_WAIT: Duration = Duration::from_millis(2);

/// A slot whose cache is whole.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) slot: Slot,
    pub(crate) first_token: u32,
    /// When its seal was verified.
    pub(crate) sealed: Instant,
}

/// The way into the batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    queue: SyncSender<Live>,
}

impl Batch {
    /// The way in, and what the thread runs. At most `slots_max` slots exist, so the queue never fills.
    pub(crate) fn new(
        section: DecodeSection,
        loaded: Arc<Loaded>,
        counters: Counters,
    ) -> (Self, Batcher) {
        let (queue, arrivals) = sync_channel(section.slots_max);
        let batcher = Batcher {
            section,
            loaded,
            counters,
            arrivals,
            sequences: Vec::new(),
            next: 0,
        };
        (Self { queue }, batcher)
    }

    /// Lets a sequence take part in the next step.
    ///
    /// # Errors
    /// `Stopped`: the thread is gone.
    pub(crate) fn submit(&self, live: Live) -> Result<(), Refusal> {
        let stopped = |_| Refusal::Stopped { part: "engine" };
        self.queue.try_send(live).map_err(stopped)
    }
}

/// What the thread owns.
#[derive(Debug)]
pub(crate) struct Batcher {
    section: DecodeSection,
    loaded: Arc<Loaded>,
    counters: Counters,
    arrivals: Receiver<Live>,
    sequences: Vec<Sequence>,
    /// Where the next step begins, when not all sequences fit into one.
    next: usize,
}

impl Batcher {
    /// Runs until nobody can submit any more and all sequences have ended.
    ///
    /// # Errors
    /// The GPU failed: nothing runs here any more.
    pub(crate) fn run(mut self) -> Result<(), EngineError> {
        let mut open = true;
        while open || !self.sequences.is_empty() {
            let ready = self.sort_out();
            if ready.is_empty() {
                open = self.wait();
            } else {
                self.step(&ready)?;
                open &= self.admit();
            }
        }
        Ok(())
    }

    /// Blocks until a sequence arrives; not for long while others are paused. False if none can
    /// arrive any more.
    fn wait(&mut self) -> bool {
        let arrival = match self.sequences.is_empty() {
            true => self
                .arrivals
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            false => self.arrivals.recv_timeout(PAUSED_WAIT),
        };
        match arrival {
            Ok(live) => self.sequences.push(Sequence::new(live)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(PAUSED_WAIT);
                return false;
            }
        }
        self.admit()
    }

    /// Takes in what has arrived. False if nothing can arrive any more.
    fn admit(&mut self) -> bool {
        loop {
            match self.arrivals.try_recv() {
                Ok(live) => self.sequences.push(Sequence::new(live)),
                Err(error) => return error == std::sync::mpsc::TryRecvError::Empty,
            }
        }
    }

    /// Ends what must end, and gives the indices of the sequences of the next step.
    fn sort_out(&mut self) -> Vec<usize> {
        let now = Instant::now();
        let stall_timeout = self.section.stall_timeout();
        let mut ready = Vec::new();
        let mut index = 0;
        while index < self.sequences.len() {
            match self.sequences[index].turn(now, stall_timeout) {
                Turn::Ready => ready.push(index),
                Turn::Paused => {}
                Turn::Left => {
                    self.counters.cancelled(Stage::Decode);
                    drop(self.sequences.swap_remove(index));
                    continue;
                }
                Turn::Overdue(overdue) => {
                    self.counters.failed.inc();
                    if overdue == Overdue::Stall {
                        self.counters.slow_clients.inc();
                    }
                    let sequence = self.sequences.swap_remove(index);
                    let refusal = sequence.overdue(overdue, stall_timeout);
                    sequence.fail(refusal);
                    continue;
                }
            }
            index += 1;
        }
        let most = self.section.batch_max;
        if ready.len() > most {
            self.next %= ready.len();
            ready.rotate_left(self.next);
            ready.truncate(most);
            ready.sort_unstable();
            self.next += most;
        }
        ready
    }

    /// One token for each sequence of `ready`, whose indices ascend.
    fn step(&mut self, ready: &[usize]) -> Result<(), EngineError> {
        let began = Instant::now();
        let mut turns = Vec::with_capacity(ready.len());
        let mut wanted = ready.iter().copied().peekable();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            if wanted.next_if_eq(&index).is_some() {
                sequence.step_began(began);
                turns.push(EngineTurn {
                    token: sequence.token,
                    cache: &mut sequence.cache,
                });
            }
        }
        let result = self.loaded.model.step(&mut turns);
        let took = began.elapsed();
        self.counters.steps.inc();
        self.counters.step_seconds.observe(took.as_secs_f64());
        self.counters.batch.observe(ready.len() as f64);
        let logits = match result {
            Ok(logits) => logits,
            // Nothing was appended. The back first: who ends there leaves the indices of the others as they are.
            Err(EngineError::NoDeviceMemory { .. }) if ready.len() > 1 => {
                let (front, back) = ready.split_at(ready.len() / 2);
                self.step(back)?;
                return self.step(front);
            }
            Err(EngineError::Device(lost)) => {
                let all: Vec<usize> = (0..self.sequences.len()).collect();
                self.fail(&all, &lost, |lost| EngineError::from(lost.clone()).into());
                return Err(lost.into());
            }
            Err(error) => {
                self.fail(ready, &error, |error| match *error {
                    EngineError::NoDeviceMemory { bytes } => {
                        EngineError::NoDeviceMemory { bytes }.into()
                    }
                    _ => Refusal::Step {
                        reason: error.to_string(),
                    },
                });
                return Ok(());
            }
        };
        // From the back, so that removing one leaves the indices before it.
        for (&index, logits) in ready.iter().zip(&logits).rev() {
            self.counters.tokens.inc();
            match self.sequences[index].advance(logits, took) {
                Ok(false) => {}
                Ok(true) => {
                    self.counters.completed.inc();
                    drop(self.sequences.swap_remove(index));
                }
                Err(error) => {
                    self.counters.failed.inc();
                    self.sequences.swap_remove(index).fail(error.into());
                }
            }
        }
        Ok(())
    }

    /// The engine refused a whole step: a bug or broken weights, and its sequences end, others go on; or its GPU is
    /// lost, and all end.
    fn fail<E: Display>(&mut self, ready: &[usize], error: &E, refusal: impl Fn(&E) -> Refusal) {
        tracing::error!(%error, sequences = ready.len(), "a step failed");
        for &index in ready.iter().rev() {
            self.counters.failed.inc();
            self.sequences.swap_remove(index).fail(refusal(error));
        }
    }
}

#[cfg(test)]
mod tests;
