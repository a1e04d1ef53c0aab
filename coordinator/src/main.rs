//! The coordinator as a process: configuration, log, metrics, then [`run`].

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use lava_coordinator::{Config, CoordinatorMetrics, run};
use lava_node::{Health, Metrics, Override, Shutdown, config, http, supervise, telemetry};
use tokio::net::TcpListener;

/// Accepts requests to language models, places them on workers and streams the answers.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The configuration, as deploy/config/coordinator.toml explains it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key of it; may be repeated. LAVA__A__B in the environment overrides a.b too.
    #[arg(long = "set", value_name = "a.b=VALUE")]
    overrides: Vec<Override>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut overrides = Override::from_env(std::env::vars());
    overrides.extend(options.overrides);
    let config: Config = config::load(options.config.as_deref(), &overrides)?;
    let registry = config.registry()?;
    let (address, http_config) = (config.listen.address, config.http.clone());
    let telemetry_config = config.telemetry.clone();
    let plan = config.into_plan()?;
    telemetry::init(&telemetry_config)?;

    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let health = Health::new();
    let mut metrics = Metrics::new();
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
