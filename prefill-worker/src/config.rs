//! The configuration of a prefill worker.

use std::time::Duration;

use lava_cluster::EtcdConfig;
use lava_node::{ConfigError, HttpConfig, TelemetryConfig, config};
use lava_worker::{ListenSection, ModelSection, TransferSection};
use serde::Deserialize;

/// All of `prefill.toml`. `deploy/config/prefill.toml` documents every key.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefillConfig {
    /// Where it listens.
    pub listen: ListenSection,
    /// `/metrics` and probes.
    pub http: HttpConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// Where it registers.
    pub etcd: EtcdConfig,
    /// What it runs.
    pub model: ModelSection,
    /// How its caches leave.
    pub transfer: TransferSection,
    /// Its own bounds.
    pub prefill: PrefillSection,
}

/// The section `[prefill]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefillSection {
    /// Requests that wait or run.
    pub queue_max: usize,
    /// Prompt tokens of all of them together.
    pub queue_tokens_max: usize,
    /// Prompts that wait are computed together if they have so many tokens at most.
    pub together_tokens_max: usize,
    /// Memory for the compact caches of the prompts that run, bytes.
    pub cache_bytes: usize,
    /// Memory for the keys and values of recent prompts' fronts, bytes; nothing is kept without it.
    pub prefix_bytes: Option<usize>,
    /// Frames that wait for the link, per request; the prefill waits for it beyond that.
    pub frames_queued_max: usize,
    /// Time to connect to a decode worker, milliseconds.
    pub connect_timeout_ms: u64,
    /// Time for what is queued once the process is told to end, milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for PrefillSection {
    fn default() -> Self {
        Self {
            queue_max: 64,
            queue_tokens_max: 1_000_000,
            together_tokens_max: 512,
            cache_bytes: 1 << 30,
            prefix_bytes: None,
            frames_queued_max: 64,
            connect_timeout_ms: 2_000,
            drain_timeout_ms: 30_000,
        }
    }
}

impl PrefillSection {
    /// # Errors
    /// A bound is 0.
    pub fn check(&self) -> Result<(), ConfigError> {
        config::at_least(&[
            ("prefill.queue_max", self.queue_max as u64, 1),
            ("prefill.queue_tokens_max", self.queue_tokens_max as u64, 1),
            (
                "prefill.frames_queued_max",
                self.frames_queued_max as u64,
                1,
            ),
            ("prefill.cache_bytes", self.cache_bytes as u64, 1),
            ("prefill.connect_timeout_ms", self.connect_timeout_ms, 1),
        ])
    }

    pub(crate) fn pages(&self, page_bytes: usize) -> usize {
        self.cache_bytes / page_bytes
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_the_defaults() {
        let sample = include_str!("../../deploy/config/prefill.toml");
        let mut parsed: PrefillConfig = toml::from_str(sample).unwrap();
        assert!(
            parsed.model.path.take().is_some(),
            "the sample names a model"
        );
        let mut expected = PrefillConfig::default();
        expected.listen.address = parsed.listen.address;
        expected.http.listen = parsed.http.listen;
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_bound_of_zero_is_refused_by_its_key() {
        let section = PrefillSection {
            queue_max: 0,
            ..Default::default()
        };
        expect_test::expect!["`prefill.queue_max` is 0, expected at least 1"]
            .assert_eq(&section.check().unwrap_err().to_string());
    }
}
