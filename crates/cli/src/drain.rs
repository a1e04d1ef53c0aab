//! `lava drain`: ends a worker as SIGTERM does, from afar.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use lava_proto::worker::DrainRequest;
use lava_proto::worker::worker_client::WorkerClient;
use tonic::transport::Endpoint;

use crate::process::block_on;

/// Time for the worker to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `lava drain`.
#[derive(Args)]
pub(crate) struct Drain {
    /// host:port of the worker.
    #[arg(long)]
    addr: String,
}

pub(crate) fn run(options: &Drain) -> Result<()> {
    let address = &options.addr;
    block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address:?} is not host:port"))?;
        let endpoint = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT);
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("no worker answers at {address}"))?;
        let mut client = WorkerClient::new(channel);
        let drained = client.drain(DrainRequest {}).await;
        let drained = drained.with_context(|| format!("{address} does not drain"))?;
        let load = drained.into_inner().load.unwrap_or_default();
        println!("draining; {} requests are left", load.queue + load.slots);
        Ok(())
    })
}
