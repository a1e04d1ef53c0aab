//! What a long-running command does around its role: configuration, logs, signals, `/metrics`, and a
//! model that is loaded before anything is served.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use lava_node::{
    ConfigError, Health, HttpConfig, Metrics, Override, Shutdown, TelemetryConfig, config, http,
    supervise, telemetry,
};
use lava_worker::{Loaded, ModelSection};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::heap::HEAP;
use crate::model;

/// How a process is configured.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// TOML file; deploy/config has one of each kind, with every key explained.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Override one key, as in prefill.queue_max=8; may be repeated. The environment does the same:
    /// LAVA__PREFILL__QUEUE_MAX=8.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<Override>,
}

impl ConfigArgs {
    /// File, then environment, then arguments.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut overrides = Override::from_env(std::env::vars());
        overrides.extend(self.overrides.iter().cloned());
        config::load(self.config.as_deref(), &overrides)
    }
}

/// A process whose logs and signals are set up.
pub(crate) struct Process {
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
    http: HttpConfig,
}

impl Process {
    /// Starts logs and listens for signals. Runs inside a runtime.
    pub(crate) fn start(telemetry: &TelemetryConfig, http: &HttpConfig) -> Result<Self> {
        telemetry::init(telemetry)?;
        let shutdown = Shutdown::new();
        shutdown.on_signals()?;
        let mut metrics = Metrics::new();
        metrics.heap(HEAP.bytes);
        Ok(Self {
            shutdown,
            metrics,
            http: http.clone(),
        })
    }

    /// Serves `/metrics` and probes until the process ends, and gives what else it needs.
    pub(crate) async fn observe(self, health: &Health) -> Result<Shutdown> {
        let registry = self.metrics.finish();
        if let Some(address) = self.http.listen {
            let listener = listen(address).await?;
            let ended = Shutdown::new();
            let serving = http::serve(listener, registry, health.clone(), ended);
            supervise("http endpoint", health, async { Ok(serving.await?) });
        }
        Ok(self.shutdown)
    }
}

/// Runs a command on a runtime of its own.
pub(crate) fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}

/// Loads the model on a thread where that may take long.
pub(crate) async fn load(section: &ModelSection) -> Result<Arc<Loaded>> {
    let section = section.clone();
    let loading = tokio::task::spawn_blocking(move || {
        let (path, name) = section.path_and_name()?;
        let files = model::find(path)?;
        let loaded = Loaded::load(&section, name, &files, &mut |_, _| {})?;
        tracing::info!(
            model = loaded.name,
            bytes = loaded.model.weight_bytes(),
            "model loaded"
        );
        anyhow::Ok(loaded)
    });
    loading.await.context("loading the model panicked")?
}

pub(crate) async fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}

/// An id that no other process has, and that tells its role.
pub(crate) fn worker_id(role: &str) -> Result<String> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).context("the system gives no random numbers")?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{role}-{hex}"))
}

/// A file of deploy/config.
#[cfg(test)]
pub(crate) fn sample<T: DeserializeOwned>(file: &str) -> T {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");
    let path = std::path::Path::new(folder).join(file);
    config::load(Some(&path), &[]).unwrap()
}
