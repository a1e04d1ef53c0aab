//! One connection to one node, and what is asked of it. Nothing waits longer than the time for a request.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{
    Client, GetOptions, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, WatchOptions,
    WatchStream,
};
use tokio::time::timeout;

use super::config::EtcdPlan;
use super::options;
use crate::ClusterMetrics;

pub(super) struct Session {
    client: Client,
    request_timeout: Duration,
    metrics: ClusterMetrics,
}

/// Why a session ended. Whoever it was: the answer is another session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("{doing}: no answer in {} ms", limit.as_millis())]
    Late {
        doing: &'static str,
        limit: Duration,
    },
    #[error("{doing}: {}", told(cause))]
    Refused {
        doing: &'static str,
        cause: etcd_client::Error,
    },
    #[error("`{key}`: cannot read {}: {cause}", file.display())]
    Unreadable {
        key: &'static str,
        file: PathBuf,
        cause: io::Error,
    },
    #[error("{doing}: etcd ended the stream")]
    StreamEnded { doing: &'static str },
    #[error("the lease has run out")]
    LeaseGone,
    #[error("the record is gone")]
    RecordGone,
    #[error("the record was overwritten")]
    RecordTaken,
    #[error("etcd cancelled the watch (compacted up to revision {compacted}): {reason}")]
    WatchCancelled { compacted: i64, reason: String },
}

impl Session {
    /// Reads the files of the plan, connects, and authenticates where there is a user. Without one this
    /// may succeed though nobody is there, which the first request finds.
    pub(super) async fn begin(
        plan: &EtcdPlan,
        endpoint: &str,
        metrics: &ClusterMetrics,
    ) -> Result<Session, SessionError> {
        let options = options::of(plan)?;
        let request_timeout = plan.request_timeout;
        let connect = Client::connect([endpoint], Some(options));
        let client = bounded("connecting", request_timeout, connect).await?;
        Ok(Session {
            client,
            request_timeout,
            metrics: metrics.clone(),
        })
    }

    /// A new lease, with the seconds that etcd gives it, which may be more.
    pub(super) async fn grant(&self, ttl_s: i64) -> Result<(i64, Duration), SessionError> {
        let mut leases = self.client.lease_client();
        let granted = self.ask("asking for a lease", leases.grant(ttl_s, None));
        let granted = granted.await?;
        let ttl = Duration::from_secs(granted.ttl().try_into().unwrap_or_default());
        Ok((granted.id(), ttl))
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: String,
        lease: i64,
    ) -> Result<(), SessionError> {
        let options = PutOptions::new().with_lease(lease);
        let mut keys = self.client.kv_client();
        let put = keys.put(key, value, Some(options));
        self.ask("writing the record", put).await.map(|_| ())
    }

    /// The lease of a key, if the key is there.
    pub(super) async fn lease_of(&self, key: &str) -> Result<Option<i64>, SessionError> {
        let options = GetOptions::new().with_keys_only();
        let mut keys = self.client.kv_client();
        let get = self.ask("checking the record", keys.get(key, Some(options)));
        Ok(get.await?.kvs().first().map(KeyValue::lease))
    }

    /// Opens the stream of renewals, which begins with one.
    pub(super) async fn keep_alive(
        &self,
        lease: i64,
    ) -> Result<(LeaseKeeper, LeaseKeepAliveStream), SessionError> {
        let mut leases = self.client.lease_client();
        self.ask(KEEPING, leases.keep_alive(lease)).await
    }

    /// One more renewal.
    pub(super) async fn renew(
        &self,
        keeper: &mut LeaseKeeper,
        answers: &mut LeaseKeepAliveStream,
    ) -> Result<(), SessionError> {
        let exchange = async {
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.ask(KEEPING, exchange).await? {
            None => Err(SessionError::StreamEnded { doing: KEEPING }),
            Some(answer) if answer.ttl() <= 0 => Err(SessionError::LeaseGone),
            Some(_) => Ok(()),
        }
    }

    /// Lets a pause pass, in which nothing is to come: news is that the stream broke.
    pub(super) async fn rest(
        &self,
        pause: Duration,
        answers: &mut LeaseKeepAliveStream,
    ) -> Result<(), SessionError> {
        match timeout(pause, answers.message()).await {
            Err(_) => Ok(()),
            Ok(Ok(_)) => Err(SessionError::StreamEnded { doing: KEEPING }),
            Ok(Err(cause)) => Err(SessionError::Refused {
                doing: KEEPING,
                cause,
            }),
        }
    }

    /// Takes the lease back, and every key under it. One that is gone already is no error.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), SessionError> {
        let mut leases = self.client.lease_client();
        let revoked = async {
            match leases.revoke(lease).await {
                Err(error) if is_unknown_lease(&error) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.ask("withdrawing the record", revoked).await
    }

    /// All keys below a folder, with the revision that they were read at. The answer has to fit the 4 MiB
    /// that a message may have, which is 20,000 workers.
    pub(super) async fn list(&self, folder: &str) -> Result<(Vec<KeyValue>, i64), SessionError> {
        let options = GetOptions::new().with_prefix();
        let mut keys = self.client.kv_client();
        let get = keys.get(folder, Some(options));
        let mut answer = self.ask("listing the members", get).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok((answer.take_kvs(), revision))
    }

    /// A watch that etcd has confirmed.
    pub(super) async fn watch(
        &self,
        folder: &str,
        from_revision: i64,
    ) -> Result<WatchStream, SessionError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(from_revision);
        let mut watches = self.client.watch_client();
        let created = async {
            let mut watch = watches.watch(folder, Some(options)).await?;
            let confirmed = watch.message().await?;
            Ok((watch, confirmed))
        };
        let (watch, confirmed) = self.ask(WATCHING, created).await?;
        match confirmed {
            None => Err(SessionError::StreamEnded { doing: WATCHING }),
            Some(answer) if answer.canceled() => Err(SessionError::cancelled(&answer)),
            Some(_) => Ok(watch),
        }
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        exchange: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, SessionError> {
        let answer = bounded(doing, self.request_timeout, exchange).await?;
        self.metrics.connected.set(1);
        Ok(answer)
    }
}

const KEEPING: &str = "renewing the lease";
pub(super) const WATCHING: &str = "watching the members";

impl SessionError {
    pub(super) fn cancelled(answer: &etcd_client::WatchResponse) -> SessionError {
        SessionError::WatchCancelled {
            compacted: answer.compact_revision(),
            reason: answer.cancel_reason().to_owned(),
        }
    }
}

async fn bounded<T>(
    doing: &'static str,
    limit: Duration,
    exchange: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, SessionError> {
    match timeout(limit, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(cause)) => Err(SessionError::Refused { doing, cause }),
        Err(_) => Err(SessionError::Late { doing, limit }),
    }
}

fn is_unknown_lease(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    status.message().contains("requested lease not found")
}

/// The error with its causes, which etcd-client's own text leaves out: they say why a connection failed.
fn told(error: &etcd_client::Error) -> String {
    let (mut text, mut cause) = match error {
        etcd_client::Error::GRpcStatus(status) => (
            format!("{:?}: {}", status.code(), status.message()),
            status.source(),
        ),
        etcd_client::Error::TransportError(error) => (error.to_string(), error.source()),
        other => (other.to_string(), None),
    };
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
