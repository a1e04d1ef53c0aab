//! `lava worker`: a prefill and a decode worker in one process, one model in memory. Coordinators see two workers on one host, where
//! they keep short prompts if they are told to (`placement.together_tokens_max`).

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use lava_cluster::EtcdConfig;
use lava_decode_worker::DecodeSection;
use lava_node::{Health, HttpConfig, TelemetryConfig};
use lava_prefill_worker::PrefillSection;
use lava_worker::{ListenSection, ModelSection, TransferSection};
use serde::Deserialize;

use crate::pair::Pair;
use crate::process::{ConfigArgs, Process, block_on, listen, load};
use crate::workers::{membership, registry};

/// All of `worker.toml`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WorkerConfig {
    listen: ListenPair,
    http: HttpConfig,
    telemetry: TelemetryConfig,
    etcd: EtcdConfig,
    model: ModelSection,
    transfer: TransferSection,
    prefill: PrefillSection,
    decode: DecodeSection,
}

/// Two ports of one host: that it is one is what coordinators go by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListenPair {
    address: IpAddr,
    prefill_port: u16,
    decode_port: u16,
    /// The host for others; `None`: the address itself.
    advertise: Option<String>,
}

impl Default for ListenPair {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            prefill_port: 0,
            decode_port: 0,
            advertise: None,
        }
    }
}

impl ListenPair {
    fn at(&self, port: u16) -> ListenSection {
        ListenSection {
            address: SocketAddr::from((self.address, port)),
            advertise: self.advertise.as_ref().map(|host| format!("{host}:0")),
        }
    }
}

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let config: WorkerConfig = args.load()?;
    config.prefill.check()?;
    config.decode.check()?;
    config.transfer.check()?;
    config.model.path_and_name()?;
    let etcd = config.etcd.clone().into_plan()?;
    block_on(async {
        let mut process = Process::start(&config.telemetry, &config.http)?;
        let prefill_at = config.listen.at(config.listen.prefill_port);
        let decode_at = config.listen.at(config.listen.decode_port);
        let prefill_listener = listen(prefill_at.address).await?;
        let decode_listener = listen(decode_at.address).await?;
        let lanes = config.transfer.lanes(&config.model)?;
        let loaded = load(&config.model).await?;
        let metrics = &mut process.metrics;
        let pair = Pair::new(config.prefill, config.decode, loaded, lanes, metrics)?;
        let registry = registry(etcd, metrics);
        let prefill = membership("prefill", registry.clone(), &prefill_at, &prefill_listener)?;
        let decode = membership("decode", registry, &decode_at, &decode_listener)?;
        let health = Health::new();
        let shutdown = process.observe(&health).await?;
        health.serving();
        let serving = pair.serve(
            (prefill_listener, prefill),
            (decode_listener, decode),
            &health,
            &shutdown,
            &shutdown,
        );
        let draining = async {
            shutdown.triggered().await;
            health.draining();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            served = serving => served,
            never = draining => match never {},
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::sample;

    #[test]
    fn the_sample_file_is_the_defaults() {
        let mut parsed: WorkerConfig = sample("worker.toml");
        assert!(
            parsed.model.path.take().is_some(),
            "the sample names a model"
        );
        let mut expected = WorkerConfig::default();
        expected.listen.prefill_port = parsed.listen.prefill_port;
        expected.listen.decode_port = parsed.listen.decode_port;
        expected.http.listen = parsed.http.listen;
        assert_eq!(parsed, expected);
    }

    #[test]
    fn both_roles_are_found_at_one_host() {
        let listen = ListenPair {
            advertise: Some("worker-0.example".to_owned()),
            ..ListenPair::default()
        };
        let bound = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(listen.at(0).advertised(bound(81)), "worker-0.example:81");
        assert_eq!(listen.at(82).advertised(bound(82)), "worker-0.example:82");
    }
}
