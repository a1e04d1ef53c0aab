//! The registry of a process while its parts are being built.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What the process can count, under construction. Each part registers its own gauges, counters and
/// histograms and keeps clones of them; afterwards [`Metrics::finish`] freezes the list.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty list. Every name will begin with `lava_`.
    #[expect(
        clippy::new_without_default,
        reason = "there is one per process, made in one place"
    )]
    pub fn new() -> Metrics {
        Metrics {
            registry: Registry::with_prefix("lava"),
        }
    }

    /// The list of one part: names registered in it begin with `lava_{prefix}_`. Ask for a prefix
    /// once, since two parts with one prefix can register the same name twice unnoticed.
    pub fn sub_registry(&mut self, prefix: &str) -> &mut Registry {
        self.registry.sub_registry_with_prefix(prefix)
    }

    /// Shows what the process's allocator has given out and not got back, as `lava_process_heap_bytes`. `bytes`
    /// asks it, at each scrape.
    pub fn heap(&mut self, bytes: fn() -> usize) {
        let list = self.sub_registry("process");
        list.register_collector(Box::new(Heap(bytes)));
    }

    /// The finished list, to be [served](crate::http::serve).
    pub fn finish(self) -> Arc<Registry> {
        Arc::new(self.registry)
    }
}

/// See [`Metrics::heap`].
#[derive(Debug)]
struct Heap(fn() -> usize);

impl Collector for Heap {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Bytes allocated and not freed.";
        let gauge = ConstGauge::new((self.0)() as i64);
        let metric = encoder.encode_descriptor("heap_bytes", help, None, MetricType::Gauge)?;
        gauge.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn a_part_keeps_counting_in_the_finished_list() {
        let mut metrics = Metrics::new();
        let cuts = Counter::<u64>::default();
        let pages: Gauge = Gauge::default();
        metrics
            .sub_registry("cache")
            .register("cuts", "Cuts so far", cuts.clone());
        metrics
            .sub_registry("pool")
            .register("pages", "Pages in use", pages.clone());
        metrics.heap(|| 70);
        let registry = metrics.finish();
        cuts.inc_by(2);
        pages.set(3);

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        expect_test::expect![[r#"
            # HELP lava_cache_cuts Cuts so far.
            # TYPE lava_cache_cuts counter
            lava_cache_cuts_total 2
            # HELP lava_pool_pages Pages in use.
            # TYPE lava_pool_pages gauge
            lava_pool_pages 3
            # HELP lava_process_heap_bytes Bytes allocated and not freed.
            # TYPE lava_process_heap_bytes gauge
            lava_process_heap_bytes 70
            # EOF
        "#]]
        .assert_eq(&text);
    }
}
