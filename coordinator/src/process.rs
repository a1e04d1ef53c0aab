//! A coordinator that is a process of its own, from its configuration to its end.

use anyhow::Context;
use lava_node::{Health, Metrics, Shutdown, http, supervise, telemetry};
use tokio::net::TcpListener;

use crate::{Config, CoordinatorMetrics, run};

/// Starts log, signals, metrics endpoint and listener, then [`run`]s. Once per process; `metrics` has what the caller shows besides.
///
/// # Errors
/// The operator's configuration contradicts itself, or a port is taken; or what [`run`] says.
pub async fn process(config: Config, mut metrics: Metrics) -> anyhow::Result<()> {
    let registry = config.registry(&mut metrics)?;
    let (address, http_config) = (config.listen.address, config.http.clone());
    let telemetry_config = config.telemetry.clone();
    let plan = config.into_plan()?;
    telemetry::init(&telemetry_config)?;

    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let health = Health::new();
    let counters = CoordinatorMetrics::register(&mut metrics);
    let drained = Shutdown::new();
    let endpoint = match http_config.listen {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            tracing::info!(address = %listener.local_addr()?, "metrics and probes");
            let serve = http::serve(listener, metrics.finish(), health.clone(), drained.clone());
            Some(supervise("http", &health, async move { Ok(serve.await?) }))
        }
    };
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "clients");
    let ended = run(plan, registry, listener, counters, health, shutdown).await;
    // Probes could see the drain until here.
    drained.trigger();
    if let Some(endpoint) = endpoint {
        endpoint.await?;
    }
    ended
}
