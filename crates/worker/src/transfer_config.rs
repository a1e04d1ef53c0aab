//! How caches go from worker to worker.

use std::sync::Arc;
use std::time::Duration;

use lava_node::{ConfigError, config};
use lava_transfer::{Fabric, LaneCounts, LaneSetup};
use serde::Deserialize;

use crate::model_config::{DeviceName, ModelSection};

/// The section `[transfer]` of a worker's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferSection {
    /// What payloads go over.
    pub link: LinkName,
    /// Time for a lane to be opened and for each payload on it, milliseconds.
    pub lane_timeout_ms: u64,
}

impl Default for TransferSection {
    fn default() -> Self {
        Self {
            link: LinkName::default(),
            lane_timeout_ms: 10_000,
        }
    }
}

/// What payloads go over. What is not a payload goes over gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkName {
    /// gRPC.
    #[default]
    Grpc,
    /// NCCL; without it, or without a GPU, the worker does not start.
    Nccl,
    /// NCCL where it is there.
    Auto,
}

/// A worker that may have lanes.
#[derive(Clone, Debug)]
pub struct LanePlan {
    /// What joins its GPU with others.
    pub fabric: Arc<dyn Fabric>,
    /// For a lane to be opened, and for each payload.
    pub timeout: Duration,
}

/// Why there can be no lanes where there must be.
#[derive(Debug, thiserror::Error)]
pub enum NoLanes {
    /// By the place of the model.
    #[error(
        "`transfer.link` is nccl, and the model runs on the CPU: expected grpc, or cuda:0 and so on for `model.device`"
    )]
    OnCpu,
    /// What is missing.
    #[error("`transfer.link` is nccl, and NCCL cannot be used: {0}")]
    NoNccl(Box<dyn std::error::Error + Send + Sync>),
}

impl TransferSection {
    /// # Errors
    /// A bound is 0.
    pub fn check(&self) -> Result<(), ConfigError> {
        config::at_least(&[("transfer.lane_timeout_ms", self.lane_timeout_ms, 1)])
    }

    /// The lanes of a worker for this model, if there may be any.
    ///
    /// # Errors
    /// There must be, and cannot.
    pub fn lanes(&self, model: &ModelSection) -> Result<Option<LanePlan>, NoLanes> {
        let fabric = match (self.link, model.device) {
            (LinkName::Grpc, _) | (LinkName::Auto, DeviceName::Cpu) => return Ok(None),
            (LinkName::Nccl, DeviceName::Cpu) => return Err(NoLanes::OnCpu),
            (LinkName::Nccl, DeviceName::Cuda(number)) => nccl(number).map_err(NoLanes::NoNccl)?,
            (LinkName::Auto, DeviceName::Cuda(number)) => match nccl(number) {
                Ok(fabric) => fabric,
                Err(why) => {
                    tracing::warn!(%why, "no NCCL; caches go over gRPC");
                    return Ok(None);
                }
            },
        };
        Ok(Some(LanePlan {
            fabric,
            timeout: Duration::from_millis(self.lane_timeout_ms),
        }))
    }
}

#[cfg(feature = "cuda")]
fn nccl(number: usize) -> Result<Arc<dyn Fabric>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Arc::new(lava_transfer::NcclFabric::open(number)?))
}

#[cfg(not(feature = "cuda"))]
fn nccl(_number: usize) -> Result<Arc<dyn Fabric>, Box<dyn std::error::Error + Send + Sync>> {
    Err("this program is built without CUDA".into())
}

impl LanePlan {
    /// For a process of this id.
    pub fn setup(self, worker_id: &str, counts: Arc<LaneCounts>) -> LaneSetup {
        LaneSetup {
            fabric: self.fabric,
            incarnation: worker_id.to_owned(),
            timeout: self.timeout,
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_there_and_is_not_is_an_error() {
        let section = |link| TransferSection {
            link,
            ..Default::default()
        };
        let on = |device| ModelSection {
            device,
            ..Default::default()
        };
        let cpu = on(DeviceName::Cpu);
        // No machine has so many.
        let gpu = on(DeviceName::Cuda(usize::MAX));
        assert!(section(LinkName::Grpc).lanes(&gpu).unwrap().is_none());
        assert!(section(LinkName::Auto).lanes(&cpu).unwrap().is_none());
        assert!(section(LinkName::Auto).lanes(&gpu).unwrap().is_none());
        let refused = section(LinkName::Nccl).lanes(&cpu).unwrap_err();
        expect_test::expect![
            "`transfer.link` is nccl, and the model runs on the CPU: expected grpc, or cuda:0 and so on for `model.device`"
        ]
        .assert_eq(&refused.to_string());
        let refused = section(LinkName::Nccl).lanes(&gpu).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.starts_with("`transfer.link` is nccl, and NCCL cannot be used: "),
            "{refused}"
        );
    }

    #[test]
    fn links_have_names() {
        let link = |text: &str| toml::from_str::<TransferSection>(text).map(|section| section.link);
        assert_eq!(link("").unwrap(), LinkName::Grpc);
        assert_eq!(link("link = \"auto\"").unwrap(), LinkName::Auto);
        let unknown = link("link = \"rdma\"").unwrap_err().to_string();
        assert!(
            unknown.contains("expected one of `grpc`, `nccl`, `auto`"),
            "{unknown}"
        );
    }
}
