//! What a worker's lanes show in `/metrics`.

use std::fmt;
use std::sync::Arc;

use lava_transfer::LaneCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// `lanes`, and the counters `lanes_refused`, `lanes_broken`, `lane_bytes` and `lane_fallbacks`.
#[derive(Debug)]
pub struct LaneSeries(Arc<LaneCounts>);

impl LaneSeries {
    /// The series of these counts.
    pub fn new(counts: Arc<LaneCounts>) -> Self {
        Self(counts)
    }
}

impl Collector for LaneSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let lanes = ConstGauge::new(self.0.open() as i64);
        let help = "Lanes that are open: pairs of GPUs that NCCL joins";
        lanes.encode(encoder.encode_descriptor("lanes", help, None, MetricType::Gauge)?)?;
        let series = [
            (
                "lanes_refused",
                "Lanes that could not be opened",
                self.0.refused(),
            ),
            (
                "lanes_broken",
                "Lanes that ended by a fault",
                self.0.broken(),
            ),
            (
                "lane_bytes",
                "Bytes of frames that went over lanes",
                self.0.payload_bytes(),
            ),
            (
                "lane_fallbacks",
                "Transfers that began over a lane and went on over gRPC",
                self.0.fallen_back(),
            ),
        ];
        for (name, help, value) in series {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
