//! A member of the registry that is probed, and what it last said of itself.

use lava_cluster::WorkerRecord;
use lava_node::World;
use tonic::transport::{Channel, Endpoint};

use crate::config::Workers;
use crate::snapshot::Worker;

/// Unread bytes of one answer. What slow clients leave unread counts against the connection too, so a
/// small stream window and room for all of them keep one client from holding up the others.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// A member that is probed.
pub(super) struct Followed {
    pub(super) record: WorkerRecord,
    /// The registry lost it; it is forgotten once it does not answer.
    pub(super) lapsed: bool,
    /// For probes, which must not wait behind answers.
    pub(super) control: Channel,
    /// For the calls of attempts.
    pub(super) calls: Channel,
    pub(super) probing: bool,
    pub(super) state: MemberState,
}

pub(super) enum MemberState {
    /// Not asked yet.
    New,
    Answers(Worker),
    /// The last probe failed; what it was before that, if it ever answered.
    Silent(Option<Worker>),
}

impl MemberState {
    /// What it last said of itself.
    pub(super) fn worker(&self) -> Option<&Worker> {
        match self {
            MemberState::New | MemberState::Silent(None) => None,
            MemberState::Answers(worker) | MemberState::Silent(Some(worker)) => Some(worker),
        }
    }
}

impl Followed {
    /// One that was not asked yet.
    ///
    /// # Errors
    /// The address cannot be one.
    pub(super) fn new(
        record: &WorkerRecord,
        settings: &Workers,
        world: &World,
    ) -> Result<Followed, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", record.address))?
            .connect_timeout(settings.connect_timeout)
            .http2_keep_alive_interval(settings.keep_alive)
            .keep_alive_timeout(settings.keep_alive)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let connection_window = STREAM_WINDOW_BYTES.saturating_mul(settings.calls_max);
        let calls = endpoint
            .clone()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(connection_window.min(i32::MAX as u32));
        Ok(Followed {
            record: record.clone(),
            lapsed: false,
            control: world.channel(&endpoint),
            calls: world.channel(&calls),
            probing: false,
            state: MemberState::New,
        })
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.lapsed || self.answers()
    }

    /// The last probe was answered.
    pub(super) fn answers(&self) -> bool {
        matches!(self.state, MemberState::Answers(_))
    }
}
