//! A worker's record, written and kept.

use std::convert::Infallible;
use std::time::Duration;

use lava_node::{Health, supervise};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::dialer::Dialer;
use super::session::{Session, SessionError};
use super::{Etcd, record};

/// Holds a record. Dropped, it stops to renew, and the record goes with its lease; unless a later
/// registration of the same worker has taken the record over.
#[derive(Debug)]
pub(crate) struct Registration {
    withdrawal: oneshot::Sender<()>,
    task: AbortOnDropHandle<()>,
    request_timeout: Duration,
}

pub(super) fn begin(etcd: Etcd, worker: String, address: String, health: &Health) -> Registration {
    let (withdrawal, withdrawn) = oneshot::channel();
    let request_timeout = etcd.plan.request_timeout;
    let registrant = Registrant {
        // Here and not in the task, so that the later of two calls is the newer one.
        incarnation: etcd.incarnations.next(&worker),
        key: record::folder(&etcd.plan.prefix) + &worker,
        dialer: Dialer::new(etcd.clone(), "registration"),
        etcd,
        worker,
        address,
        is_written: false,
        session: None,
        lease: None,
    };
    let task = supervise("registration", health, registrant.run(withdrawn));
    Registration {
        withdrawal,
        task: AbortOnDropHandle::new(task),
        request_timeout,
    }
}

impl Registration {
    /// Takes the record out. If that does not succeed in the time for a request, the lease takes it.
    pub(crate) async fn withdraw(self) {
        // Nobody hears it if a later registration has taken the record over.
        let _ = self.withdrawal.send(());
        if timeout(self.request_timeout, self.task).await.is_err() {
            tracing::warn!("etcd did not take the record out in time; its lease will");
        }
    }
}

/// The task's own state.
struct Registrant {
    etcd: Etcd,
    dialer: Dialer,
    worker: String,
    address: String,
    key: String,
    incarnation: u64,
    /// This incarnation may be in etcd, also where its writing was not confirmed.
    is_written: bool,
    session: Option<Session>,
    /// The last one.
    lease: Option<i64>,
}

impl Registrant {
    async fn run(mut self, withdrawn: oneshot::Receiver<()>) -> anyhow::Result<()> {
        tokio::select! {
            () = self.keep_registered() => return Ok(()),
            // If the sender is dropped, so is this task.
            Ok(()) = withdrawn => {}
        }
        self.withdraw().await;
        Ok(())
    }

    /// Ends when a later registration has taken over.
    async fn keep_registered(&mut self) {
        while self.claim() {
            let Err(error) = self.hold().await;
            self.session = None;
            if self
                .etcd
                .incarnations
                .is_newest(&self.worker, self.incarnation)
            {
                self.dialer.failed(&error).await;
            }
        }
    }

    /// Makes sure that `incarnation` is ours and was never written.
    fn claim(&mut self) -> bool {
        let incarnations = &self.etcd.incarnations;
        if !self.is_written {
            return incarnations.is_newest(&self.worker, self.incarnation);
        }
        let next = incarnations.next_after(&self.worker, self.incarnation);
        if let Some(next) = next {
            self.incarnation = next;
            self.is_written = false;
        }
        next.is_some()
    }

    /// Writes the record and renews it until something is wrong.
    async fn hold(&mut self) -> Result<Infallible, SessionError> {
        let session = self.session.insert(self.dialer.dial().await?);
        // Always a new one: what is under the last one may have lost its time already.
        let (lease, ttl) = session.grant(self.etcd.plan.lease_ttl_s).await?;
        self.lease = Some(lease);
        self.is_written = true;
        let value = record::encode(&self.address, self.incarnation);
        session.put(&self.key, value, lease).await?;
        self.etcd.metrics.registrations.inc();
        self.dialer.succeeded();
        tracing::info!(
            worker = self.worker,
            address = self.address,
            incarnation = self.incarnation,
            "registered in etcd"
        );

        let (mut keeper, mut answers) = session.keep_alive(lease).await?;
        loop {
            session.rest(ttl / 3, &mut answers).await?;
            session.renew(&mut keeper, &mut answers).await?;
            // The lease lives on when somebody deletes or overwrites the key alone.
            match session.lease_of(&self.key).await? {
                Some(found) if found == lease => {}
                Some(_) => return Err(SessionError::RecordTaken),
                None => return Err(SessionError::RecordGone),
            }
        }
    }

    /// Through the session that there is, or else, and if it is no good, through others, for as long as the
    /// caller lets it.
    async fn withdraw(&mut self) {
        let Some(lease) = self.lease else {
            return;
        };
        while let Err(error) = self.revoke(lease).await {
            self.dialer.failed(&error).await;
        }
    }

    async fn revoke(&mut self, lease: i64) -> Result<(), SessionError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.dialer.dial().await?,
        };
        session.revoke(lease).await
    }
}
