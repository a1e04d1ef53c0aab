//! What goes wrong, where, and how often: by dice that fall the same way for the same seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lava_node::ConfigError;
use lava_worker::{Refusal, Stage};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::worker::Role;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSection {
    /// Whose.
    pub role: Role,
    /// Where.
    pub stage: FaultStage,
    /// What.
    pub kind: FaultKind,
    /// How often, from 0 to 1.
    pub probability: f64,
    /// How late, for `late`, milliseconds.
    #[serde(default)]
    pub late_ms: u64,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultStage {
    /// It comes in: a prompt to the queue, or a reservation.
    Accept,
    /// The prompt is computed.
    Prefill,
    /// The cache is on its way.
    Transfer,
    /// Tokens are made.
    Decode,
    /// The last token is out, and its end is not.
    Finish,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// The worker has no room.
    Refuse,
    /// The call breaks.
    Break,
    /// Nothing happens any more, for this request.
    Stall,
    /// The whole worker is gone, as if it was killed.
    Vanish,
    /// A frame is damaged on its way.
    Corrupt,
    /// It takes longer.
    Late,
}

impl FaultSection {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let contradiction = |key: &str, found: String, expected: &str| ConfigError::Contradiction {
            key: key.into(),
            found,
            expected: expected.into(),
        };
        if !(0.0..=1.0).contains(&self.probability) {
            let found = self.probability.to_string();
            return Err(contradiction("faults.probability", found, "0 to 1"));
        }
        let stages: &[FaultStage] = match self.role {
            Role::Prefill => &[
                FaultStage::Accept,
                FaultStage::Prefill,
                FaultStage::Transfer,
            ],
            Role::Decode => &[
                FaultStage::Accept,
                FaultStage::Transfer,
                FaultStage::Decode,
                FaultStage::Finish,
            ],
        };
        if !stages.contains(&self.stage) {
            let found = format!("{:?} of {:?}", self.stage, self.role).to_lowercase();
            return Err(contradiction("faults.stage", found, "a stage of that role"));
        }
        let sends_frames = self.role == Role::Prefill && self.stage == FaultStage::Transfer;
        if self.kind == FaultKind::Corrupt && !sends_frames {
            let found = format!("{:?} of {:?}", self.stage, self.role).to_lowercase();
            return Err(contradiction(
                "faults.stage",
                found,
                "transfer of prefill: who sends frames can damage them",
            ));
        }
        Ok(())
    }
}

/// The dice of one worker.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: u64,
    role: Role,
    faults: Vec<FaultSection>,
    thrown: AtomicU64,
    vanished: CancellationToken,
}

/// A fault that came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) late: Duration,
}

impl Dice {
    /// Workers of other ids have other dice. `vanished` is cancelled when the whole worker is to go.
    pub(crate) fn new(
        seed: u64,
        role: Role,
        worker: &str,
        faults: &[FaultSection],
        vanished: CancellationToken,
    ) -> Self {
        Self {
            seed: xxh3_64_with_seed(worker.as_bytes(), seed),
            role,
            faults: faults.to_vec(),
            thrown: AtomicU64::new(0),
            vanished,
        }
    }

    /// The first fault of the profile that comes up at a stage.
    pub(crate) fn throw(&self, stage: FaultStage) -> Option<Fault> {
        let of_stage = |fault: &&FaultSection| fault.role == self.role && fault.stage == stage;
        let mut faults = self.faults.iter().filter(of_stage);
        let came_up = |fault: &&FaultSection| {
            let throw = self.thrown.fetch_add(1, Ordering::Relaxed);
            let number = xxh3_64_with_seed(&throw.to_le_bytes(), self.seed);
            // 53 bits are a number from 0 up to 1.
            ((number >> 11) as f64 / (1u64 << 53) as f64) < fault.probability
        };
        faults.find(came_up).map(|fault| Fault {
            kind: fault.kind,
            late: Duration::from_millis(fault.late_ms),
        })
    }
}

impl Dice {
    /// Throws, and goes through what comes up.
    ///
    /// # Errors
    /// The fault's.
    pub(crate) async fn meet(&self, stage: FaultStage) -> Result<(), Status> {
        self.go_through(self.throw(stage)).await
    }

    /// The same, until a deadline: whoever called may be out of reach, so that nobody else ends it.
    ///
    /// # Errors
    /// The fault's, or that the deadline has passed.
    pub(crate) async fn meet_until(
        &self,
        deadline: Instant,
        at: FaultStage,
        stage: Stage,
    ) -> Result<(), Status> {
        let late = |_| Status::from(Refusal::Deadline { stage });
        timeout_at(deadline, self.meet(at)).await.map_err(late)?
    }

    /// What is stalled, and what is left of a worker that has vanished, never ends by itself.
    ///
    /// # Errors
    /// The fault's.
    pub(crate) async fn go_through(&self, fault: Option<Fault>) -> Result<(), Status> {
        let Some(fault) = fault else { return Ok(()) };
        match fault.kind {
            FaultKind::Late => {
                sleep(fault.late).await;
                Ok(())
            }
            FaultKind::Refuse => Err(Status::resource_exhausted("refused as told")),
            FaultKind::Break | FaultKind::Corrupt => Err(Status::unavailable("broken as told")),
            FaultKind::Stall => std::future::pending().await,
            FaultKind::Vanish => {
                self.vanish();
                std::future::pending().await
            }
        }
    }

    /// Ends the whole worker.
    pub(crate) fn vanish(&self) {
        self.vanished.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(stage: FaultStage, kind: FaultKind, probability: f64) -> FaultSection {
        FaultSection {
            role: Role::Prefill,
            stage,
            kind,
            probability,
            late_ms: 0,
        }
    }

    #[test]
    fn dice_fall_as_often_as_they_should_and_the_same_way_again() {
        let faults = [fault(FaultStage::Prefill, FaultKind::Stall, 0.25)];
        let throws = |seed, worker| -> Vec<bool> {
            let dice = Dice::new(
                seed,
                Role::Prefill,
                worker,
                &faults,
                CancellationToken::new(),
            );
            (0..10_000)
                .map(|_| dice.throw(FaultStage::Prefill).is_some())
                .collect()
        };
        let first = throws(1, "a");
        let count = first.iter().filter(|came_up| **came_up).count();
        assert!((2_300..2_700).contains(&count), "{count}");
        assert!(first == throws(1, "a"));
        assert!(first != throws(2, "a") && first != throws(1, "b"));
        let dice = Dice::new(1, Role::Decode, "a", &faults, CancellationToken::new());
        assert_eq!(dice.throw(FaultStage::Prefill), None, "of the other role");
    }

    /// Found by seed 722 of tests/seeds: a worker that stalls as it lets a prompt in, and whose coordinator the network has cut off,
    /// kept the prompt's place in the queue long after the request's time was up.
    #[tokio::test]
    async fn what_stalls_as_it_comes_in_ends_at_its_deadline() {
        let faults = [fault(FaultStage::Accept, FaultKind::Stall, 1.0)];
        let dice = Dice::new(1, Role::Prefill, "a", &faults, CancellationToken::new());
        let deadline = Instant::now() + Duration::from_millis(20);
        let met = dice.meet_until(deadline, FaultStage::Accept, Stage::Queue);
        let status = met.await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn faults_that_cannot_be_are_refused_by_their_key() {
        let refused = |fault: FaultSection| fault.check().map_err(|error| error.to_string());
        let good = fault(FaultStage::Transfer, FaultKind::Corrupt, 1.0);
        assert_eq!(refused(good), Ok(()));
        for bad in [
            fault(FaultStage::Decode, FaultKind::Stall, 0.5),
            fault(FaultStage::Finish, FaultKind::Stall, 0.5),
            fault(FaultStage::Prefill, FaultKind::Corrupt, 0.5),
        ] {
            assert!(refused(bad).unwrap_err().starts_with("`faults.stage` is "));
        }
        let bad = fault(FaultStage::Prefill, FaultKind::Stall, 1.5);
        assert_eq!(
            refused(bad).unwrap_err(),
            "`faults.probability` is 1.5, expected 0 to 1"
        );
    }
}
