//! What stands for NCCL in tests: ends within this process, and faults by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lava_transfer::{Communicator, Fabric, FabricError, Rank, UNIQUE_ID_BYTES, UniqueId};

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With an error, at once.
    Fails,
    /// It does not return before its time is up.
    NeverCompletes,
}

/// What goes wrong at one end, counted from 0 over all communicators of its fabric.
#[derive(Clone, Copy, Debug, Default)]
pub struct FabricFaults {
    /// This attempt to join and all after it.
    pub joins_from: Option<(usize, Fault)>,
    /// The n-th payload that is sent.
    pub send: Option<(usize, Fault)>,
    /// The n-th payload that is received.
    pub receive: Option<(usize, Fault)>,
    /// What it has instead of the version of others.
    pub version: Option<u32>,
}

/// What all ends of a test meet at.
#[derive(Debug, Default)]
pub struct Switch {
    wires: Mutex<HashMap<UniqueId, Arc<Wire>>>,
    ids: AtomicUsize,
}

/// One end's fabric.
#[derive(Debug)]
pub struct FakeFabric {
    switch: Arc<Switch>,
    faults: FabricFaults,
    joins: AtomicUsize,
    sends: Arc<AtomicUsize>,
    receives: Arc<AtomicUsize>,
}

impl FakeFabric {
    /// An end at `switch`.
    pub fn new(switch: &Arc<Switch>, faults: FabricFaults) -> Arc<Self> {
        Arc::new(Self {
            switch: Arc::clone(switch),
            faults,
            joins: AtomicUsize::new(0),
            sends: Arc::default(),
            receives: Arc::default(),
        })
    }

    /// Payloads that were to be sent so far.
    pub fn sends(&self) -> usize {
        self.sends.load(Ordering::Relaxed)
    }
}

/// One payload at a time, from the sender to the receiver.
#[derive(Debug, Default)]
struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    joined: [bool; 2],
    payload: Option<Vec<u8>>,
    aborted: bool,
}

struct End {
    wire: Arc<Wire>,
    faults: FabricFaults,
    sends: Arc<AtomicUsize>,
    receives: Arc<AtomicUsize>,
}

impl Fabric for FakeFabric {
    fn version(&self) -> u32 {
        self.faults.version.unwrap_or(22809)
    }

    fn unique_id(&self) -> Result<UniqueId, FabricError> {
        let number = self.switch.ids.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; UNIQUE_ID_BYTES];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Ok(id)
    }

    fn join(
        &self,
        id: &UniqueId,
        rank: Rank,
        within: Duration,
    ) -> Result<Box<dyn Communicator>, FabricError> {
        let attempt = self.joins.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults.joins_from;
        go_wrong(
            fault.filter(|(from, _)| attempt >= *from),
            "joining",
            within,
        )?;
        let wire = Arc::clone(lock(&self.switch.wires).entry(*id).or_default());
        lock(&wire.state).joined[rank.number() as usize] = true;
        wire.changed.notify_all();
        wire.until("joining", within, |state| {
            state.joined[rank.peer() as usize].then_some(())
        })?;
        Ok(Box::new(End {
            wire,
            faults: self.faults,
            sends: Arc::clone(&self.sends),
            receives: Arc::clone(&self.receives),
        }))
    }
}

impl Communicator for End {
    fn send(&mut self, payload: &[u8], within: Duration) -> Result<(), FabricError> {
        let number = self.sends.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults.send.filter(|(at, _)| number == *at);
        go_wrong(fault, "sending", within)?;
        let mut payload = Some(payload.to_vec());
        self.wire.until("sending", within, |state| {
            let is_free = state.payload.is_none();
            is_free.then(|| state.payload = payload.take())
        })?;
        // As long as it is not received it has not left.
        self.wire.until("sending", within, |state| {
            state.payload.is_none().then_some(())
        })
    }

    fn receive(&mut self, out: &mut [u8], within: Duration) -> Result<(), FabricError> {
        let number = self.receives.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults.receive.filter(|(at, _)| number == *at);
        go_wrong(fault, "receiving", within)?;
        let payload = self
            .wire
            .until("receiving", within, |state| state.payload.take())?;
        if payload.len() != out.len() {
            return Err(failed(
                "receiving",
                "the other end sent another number of bytes",
            ));
        }
        out.copy_from_slice(&payload);
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        lock(&self.wire.state).aborted = true;
        self.wire.changed.notify_all();
    }
}

impl Wire {
    /// Waits until `look` finds what it looks for.
    fn until<T>(
        &self,
        doing: &'static str,
        within: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, FabricError> {
        let until = Instant::now() + within;
        let mut state = lock(&self.state);
        loop {
            if let Some(found) = look(&mut state) {
                self.changed.notify_all();
                return Ok(found);
            }
            if state.aborted {
                return Err(failed(doing, "the other end is gone"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FabricError::Timeout { doing, within });
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn go_wrong(
    fault: Option<(usize, Fault)>,
    doing: &'static str,
    within: Duration,
) -> Result<(), FabricError> {
    match fault {
        None => Ok(()),
        Some((_, Fault::Fails)) => Err(failed(doing, "as the test wants it")),
        Some((_, Fault::NeverCompletes)) => {
            std::thread::sleep(within);
            Err(FabricError::Timeout { doing, within })
        }
    }
}

fn failed(doing: &'static str, reason: &str) -> FabricError {
    FabricError::Failed {
        doing,
        reason: reason.to_owned(),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
