//! What a worker's page pool shows in `/metrics`.

use std::fmt;

use lava_engine::PagePool;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// The pool's own numbers, read when they are asked for: `pages_reserved`, `pages_total`,
/// `cache_bytes_reserved`,
/// `cache_bytes_made`.
#[derive(Debug)]
pub struct PoolSeries(PagePool);

impl PoolSeries {
    /// The series of `pool`.
    pub fn new(pool: PagePool) -> Self {
        Self(pool)
    }
}

impl Collector for PoolSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reserved = self.0.pages_reserved();
        let series = [
            ("pages_reserved", "Cache pages set aside", reserved),
            ("pages_total", "Cache pages of the pool", self.0.pages()),
            (
                "cache_bytes_reserved",
                "Bytes of cache pages set aside",
                reserved * self.0.page_bytes(),
            ),
            (
                "cache_bytes_made",
                "Bytes of cache pages that have been in use at once; they are kept",
                self.0.pages_made() * self.0.page_bytes(),
            ),
        ];
        for (name, help, value) in series {
            let gauge = ConstGauge::new(value as i64);
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
