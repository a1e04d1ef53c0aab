//! A server in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lava_lab::load::Target;
use lava_lab::served::Error;
use lava_node::{Health, Shutdown, TelemetryConfig};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::options::Serve;
use crate::process::Process;
use crate::serve::{Roles, ServeConfig};

/// Time for a coordinator to see workers in its own process.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// What `lava serve` runs, on a loopback port of its own.
pub(super) struct Embedded {
    pub(super) target: Target,
    /// Triggered by signals.
    pub(super) stop: Shutdown,
    serving: JoinHandle<Result<()>>,
    serving_end: Shutdown,
}

impl Embedded {
    pub(super) async fn start(options: &Serve) -> Result<Self> {
        let mut config: ServeConfig = options.config.load()?;
        config.model.path.clone_from(&options.model);
        config.listen.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        if config.telemetry == TelemetryConfig::default() {
            // The log shares the terminal with the progress line.
            config.telemetry.level = "warn".to_owned();
        }
        let (telemetry, http) = (config.telemetry.clone(), config.http.clone());
        let plan = config.into_plan()?;
        let mut process = Process::start(&telemetry, &http)?;
        let roles = Roles::load(plan, &mut process.metrics).await?;
        let address = roles.address()?;
        let health = Health::new();
        let stop = process.observe(&health).await?;
        let serving_end = Shutdown::new();
        let serving = tokio::spawn(roles.run(health, serving_end.clone()));
        Ok(Self {
            target: connect(address, options.in_flight_max.into(), &serving).await?,
            stop,
            serving,
            serving_end,
        })
    }

    /// Lets it end as at a signal.
    pub(super) async fn end(self) -> Result<()> {
        self.serving_end.trigger();
        self.serving.await.context("the server panicked")?
    }
}

/// Waits until the model can be asked for.
async fn connect(
    address: SocketAddr,
    in_flight_max: usize,
    serving: &JoinHandle<Result<()>>,
) -> Result<Target> {
    let began = Instant::now();
    loop {
        match Target::connect(&address.to_string(), None, in_flight_max).await {
            Err(Error::WhichModel { models }) if models.is_empty() => (),
            Err(Error::Connect { .. }) if !serving.is_finished() => (),
            connected => return Ok(connected?),
        }
        if began.elapsed() > READY_TIMEOUT {
            bail!("the server in this process was not ready within {READY_TIMEOUT:?}");
        }
        sleep(PROBE_INTERVAL).await;
    }
}
