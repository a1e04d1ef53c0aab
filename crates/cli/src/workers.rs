//! `lava prefill` and `lava decode`.

use anyhow::Result;
use lava_decode_worker::{DecodeConfig, DecodeWorker};
use lava_node::Health;
use lava_prefill_worker::{PrefillConfig, PrefillWorker};

use crate::process::{ConfigArgs, Process, block_on, listen, load, worker_id};

pub(crate) fn prefill(args: &ConfigArgs) -> Result<()> {
    let config: PrefillConfig = args.load()?;
    config.prefill.check()?;
    config.model.path_and_name()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let listener = listen(config.listen.address).await?;
        let loaded = load(&config.model).await?;
        let worker = PrefillWorker::new(config.prefill, loaded, &mut process.metrics);
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        let id = worker_id("prefill")?;
        let address = config.listen.advertised(listener.local_addr()?);
        tracing::info!(worker = id, address, "prefill worker ready");
        worker.serve(listener, id, health, shutdown).await
    })
}

pub(crate) fn decode(args: &ConfigArgs) -> Result<()> {
    let config: DecodeConfig = args.load()?;
    config.decode.check()?;
    config.model.path_and_name()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let listener = listen(config.listen.address).await?;
        let loaded = load(&config.model).await?;
        let worker = DecodeWorker::new(config.decode, loaded, &mut process.metrics);
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        let id = worker_id("decode")?;
        let address = config.listen.advertised(listener.local_addr()?);
        tracing::info!(worker = id, address, "decode worker ready");
        worker.serve(listener, id, health, shutdown).await
    })
}
