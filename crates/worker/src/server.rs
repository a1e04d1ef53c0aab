//! The gRPC server of a worker, from its first connection to the end of its drain.

use std::io;
use std::time::Duration;

use lava_node::{Health, Shutdown, State};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, Router, TcpIncoming};

use crate::membership::Membership;

/// Streams of one connection: coordinators share one connection for all their requests.
const STREAMS_MAX: u32 = 4096;
/// Streams that may be reset before they were accepted. A coordinator that gives up many requests at
/// once would otherwise lose the connection.
const PENDING_RESETS_MAX: usize = 4096;
/// HTTP/2 windows in bytes: a few frames of a cache.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often a draining worker looks whether it is idle.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time for the last messages of streams that are ending.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A server that notices dead peers and stands mass cancellation.
pub fn server_builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(lava_proto::FRAME_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// How a worker ends.
#[derive(Clone, Copy, Debug)]
pub struct Drain<F> {
    /// Time for what runs.
    pub timeout: Duration,
    /// Whether nothing runs any more.
    pub idle: F,
}

/// Why a worker ended that nobody told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its socket.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// A part of it, so that only a restart helps; the log has the details.
    #[error("{reason}; the log says why")]
    Failed {
        /// Which part, and how.
        reason: String,
    },
}

/// Registers the worker and serves until `shutdown`, or until a part of it fails. Then the worker leaves the registry and takes nothing
/// new, but the server goes on until `drain` is over: requests that were let in still need it.
///
/// # Errors
/// The socket, or a part of the worker, failed.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    membership: Membership,
    health: Health,
    shutdown: Shutdown,
    drain: Drain<impl Fn() -> bool>,
) -> Result<(), ServeError> {
    // The builder's own setting is for listeners that it makes itself.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serve_incoming(router, incoming, membership, health, shutdown, drain).await
}

/// The same, for connections of any kind.
///
/// # Errors
/// What brings the connections, or a part of the worker, failed.
pub async fn serve_incoming<S>(
    router: Router,
    incoming: impl Stream<Item = io::Result<S>>,
    membership: Membership,
    health: Health,
    shutdown: Shutdown,
    drain: Drain<impl Fn() -> bool>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    health.serving();
    let registration = membership.register(&health);
    let stop = Shutdown::new();
    let server = router.serve_with_incoming_shutdown(incoming, stop.triggered());
    let ending = async {
        tokio::select! {
            biased;
            () = shutdown.triggered() => {}
            _ = health.failure() => {}
        }
        health.draining();
        tracing::info!("draining");
        registration.withdraw().await;
        let until_idle = async {
            while !(drain.idle)() {
                sleep(LOOK_INTERVAL).await;
            }
        };
        if timeout(drain.timeout, until_idle).await.is_err() {
            tracing::warn!("the drain timeout passed; what is left is ended");
        }
        stop.trigger();
        sleep(LAST_WORDS).await;
    };
    tokio::select! {
        biased;
        served = server => served?,
        () = ending => {}
    }
    match health.state() {
        State::Failed { reason } => Err(ServeError::Failed { reason }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lava_cluster::Registry;

    use super::*;

    /// A worker without a service of its own, told to end or failing as `end` says.
    async fn ended(
        busy_for: Duration,
        end: impl FnOnce(&Health, &Shutdown),
    ) -> (Result<(), ServeError>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let membership = Membership {
            registry: Registry::memory(),
            worker_id: "test".into(),
            address: listener.local_addr().unwrap().to_string(),
        };
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let began = std::time::Instant::now();
        let drain = Drain {
            timeout: Duration::from_secs(20),
            idle: move || began.elapsed() > busy_for,
        };
        let router = server_builder().add_service(health.service(&[]));
        let serving = serve(
            router,
            listener,
            membership,
            health.clone(),
            shutdown.clone(),
            drain,
        );
        end(&health, &shutdown);
        let ended = timeout(Duration::from_secs(20), serving).await;
        (ended.expect("it ends"), began.elapsed())
    }

    #[tokio::test]
    async fn a_worker_of_which_a_part_fails_serves_what_it_has_and_ends_with_an_error() {
        let busy = Duration::from_millis(300);
        let (ended, after) = ended(busy, |health, _| health.failed("engine failed".into())).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "engine failed; the log says why"
        );
        assert!(after >= busy);
    }

    #[tokio::test]
    async fn a_worker_that_is_told_to_ends_well_unless_a_part_fails_meanwhile() {
        let (well, _) = ended(Duration::ZERO, |_, shutdown| shutdown.trigger()).await;
        assert!(well.is_ok());
        let (failed, _) = ended(Duration::ZERO, |health, shutdown| {
            shutdown.trigger();
            health.failed("engine failed".into());
        })
        .await;
        assert!(failed.is_err());
    }
}
