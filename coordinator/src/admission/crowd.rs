//! Why a request that has to wait may not, or not any longer.

use std::time::Duration;

/// Too many want the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Crowded {
    pub(crate) why: Crowd,
    /// When it pays to come back.
    pub(crate) retry_after: Duration,
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowd {
    #[error("requests do not wait here")]
    NobodyMayWait,
    #[error("the queue of {waiting_max} is full")]
    Full { waiting_max: usize },
    #[error("some {} s would pass before its turn, and it may wait for {} s", seconds(*wait), seconds(*wait_max))]
    TooSlow { wait: Duration, wait_max: Duration },
    #[error("its place to wait was needed for another tenant's or a more urgent request")]
    PushedOut,
    #[error("it has waited for {} s", seconds(*waited))]
    WaitedOut { waited: Duration },
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
