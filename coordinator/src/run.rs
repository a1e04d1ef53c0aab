//! The coordinator as a whole: from a listener to the end of the last answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lava_cluster::Registry;
use lava_node::{Health, Shutdown, State, World, supervise};
use lava_proto::v1::inference_server::{InferenceServer, SERVICE_NAME};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::admission::{Admission, Bounds, Quotas};
use crate::config::Plan;
use crate::metrics::CoordinatorMetrics;
use crate::retry_budget::RetryBudget;
use crate::roster::Roster;
use crate::service::Service;

/// How long answers that the drain cuts have to send their last word, and connections to close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Answers that may be looked at while all places to run and to wait are taken: one of them may have a
/// better claim to a place than who has it.
const NEWCOMERS_MAX: u32 = 64;

/// Streams of one client's connection beyond its answers: health, models, reflection.
const STREAMS_SPARE: u32 = 64;

/// Serves clients on `listener` until `shutdown` is triggered, or a part of the coordinator fails, and
/// the drain is over.
///
/// `health` becomes serving once a model can be asked for,
/// draining when `shutdown` is triggered, and failed if a part of the coordinator dies. A process with
/// several roles gives each its own or shares one, as it wants to be judged.
///
/// During the drain new requests and those that wait for room get `UNAVAILABLE`, and running ones go on.
/// Those that the drain's time does not suffice for end with `UNAVAILABLE` too.
///
/// # Errors
/// A part of the coordinator failed, such as the listener's socket; only a restart helps.
pub async fn run(
    plan: Plan,
    registry: Registry,
    listener: TcpListener,
    metrics: CoordinatorMetrics,
    health: Health,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let world = World::default();
    run_in_world(world, plan, registry, incoming, metrics, health, shutdown).await
}

/// [`run`] with the connections of another world, both those to workers and those that come in.
///
/// # Errors
/// What brings the connections broke.
pub async fn run_in_world<S>(
    world: World,
    plan: Plan,
    registry: Registry,
    incoming: impl Stream<Item = io::Result<S>> + Send + 'static,
    metrics: CoordinatorMetrics,
    health: Health,
    shutdown: Shutdown,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let running_max = plan.limits.flights_max;
    let waiting_max = plan.admission.waiting_max;
    let flights_max = match waiting_max {
        0 => running_max,
        _ => running_max
            .saturating_add(waiting_max)
            .saturating_add(NEWCOMERS_MAX.max(plan.limits.choices_max)),
    };
    let bounds = Bounds {
        waiting_max: waiting_max as usize,
        running_max: running_max as usize,
    };
    let quotas = Quotas::new(
        plan.admission.tenants.clone(),
        plan.admission.tenant_default,
        plan.admission.tenants_max as usize,
    );
    let admission = Admission::new(bounds, quotas, &metrics);
    let roster = Roster::follow(
        &registry,
        &world,
        plan.workers,
        plan.placement,
        &metrics,
        &health,
        admission.room(),
    );
    let closing = Shutdown::new();
    let flights = Arc::new(Semaphore::new(flights_max as usize));
    let drained = CancellationToken::new();
    let drain_timeout = plan.drain_timeout;
    let keep_alive = plan.client_keep_alive;
    let message_bytes_max = plan.message_bytes_max;
    let retry_budget = RetryBudget::new(plan.retry_percent, running_max);
    let service = InferenceServer::new(Service {
        world,
        plan,
        roster,
        retry_budget,
        admission,
        flights: Arc::clone(&flights),
        flights_max,
        metrics,
        closing: closing.clone(),
        drained: drained.clone(),
    })
    .max_decoding_message_size(message_bytes_max);

    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = Server::builder()
        .http2_keepalive_interval(Some(keep_alive))
        .max_concurrent_streams(flights_max.saturating_add(STREAMS_SPARE))
        .max_frame_size(lava_proto::FRAME_BYTES_MAX)
        .add_service(service)
        .add_service(health.service(&[SERVICE_NAME]))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, stopped);
    let server = supervise("listener", &health, async move {
        server.await.context("the gRPC server broke")
    });
    let mut server = AbortOnDropHandle::new(server);

    tokio::select! {
        biased;
        () = shutdown.triggered() => {}
        // What was let in is not lost with the part; who is not is better off elsewhere.
        _ = health.failure() => {}
        _ = &mut server => bail!("the gRPC server ended before the shutdown"),
    }
    closing.trigger();
    health.draining();
    tracing::info!("draining");
    if timeout(drain_timeout, all_ended(&flights, flights_max))
        .await
        .is_err()
    {
        tracing::warn!("answers are cut at the end of the drain");
        drained.cancel();
        // They only have to send a status.
        let _ended = timeout(LAST_WORDS, all_ended(&flights, flights_max)).await;
    }
    stop.cancel();
    // A client that keeps a health watch or half a request open is left behind.
    let _closed = timeout(LAST_WORDS, server).await;
    match health.state() {
        State::Failed { reason } => bail!("{reason}; the log says why"),
        _ => Ok(()),
    }
}

/// Waits until no answer is under way.
async fn all_ended(flights: &Semaphore, flights_max: u32) {
    let all = flights.acquire_many(flights_max).await;
    drop(all.expect("the semaphore is never closed"));
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(lava_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
