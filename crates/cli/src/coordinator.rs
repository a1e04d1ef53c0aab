//! `lava coordinator`.

use anyhow::Result;
use lava_coordinator::{Config, CoordinatorMetrics, run as serve};
use lava_node::Health;

use crate::process::{ConfigArgs, Process, block_on, listen};

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let config: Config = args.load()?;
    let registry = config.registry()?;
    let plan = config.clone().into_plan()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let listener = listen(config.listen.address).await?;
        let counters = CoordinatorMetrics::register(&mut process.metrics);
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        tracing::info!(address = %listener.local_addr()?, "coordinator ready");
        serve(plan, registry, listener, counters, health, shutdown).await
    })
}
