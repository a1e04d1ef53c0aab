//! The configuration of a decode worker.

use std::time::Duration;

use lava_cluster::EtcdConfig;
use lava_node::{ConfigError, HttpConfig, TelemetryConfig, config, memory_bytes};
use lava_worker::{ListenSection, ModelSection, TransferSection};
use serde::Deserialize;

use crate::sequence::ROOM_MIN;

/// All of `decode.toml`. `deploy/config/decode.toml` documents every key.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeConfig {
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
    /// How its caches come.
    pub transfer: TransferSection,
    /// Its own bounds.
    pub decode: DecodeSection,
}

/// The section `[decode]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeSection {
    /// Memory for the caches of all sequences, bytes.
    pub cache_bytes: usize,
    /// The same in percent of the memory that this process may use, or of the GPU's; takes the place of
    /// `cache_bytes`.
    pub cache_percent: Option<u8>,
    /// Sequences that wait for their cache or run.
    pub slots_max: usize,
    /// Sequences of one step.
    pub batch_max: usize,
    /// Messages that wait for one caller, who pauses beyond that.
    pub output_max: usize,
    /// A caller that takes nothing for this long is ended, milliseconds.
    pub stall_timeout_ms: u64,
    /// Frames in flight per transfer.
    pub frames_in_flight_max: u32,
    /// Time for what runs once the process is told to end, milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for DecodeSection {
    fn default() -> Self {
        Self {
            cache_bytes: 1 << 30,
            cache_percent: None,
            slots_max: 256,
            batch_max: 64,
            output_max: 64,
            stall_timeout_ms: 30_000,
            frames_in_flight_max: 16,
            drain_timeout_ms: 30_000,
        }
    }
}

impl DecodeSection {
    /// # Errors
    /// A bound is too small to work with.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(percent) = self.cache_percent {
            let expected = match memory_bytes() {
                Some(_) if (1..=95).contains(&percent) => None,
                Some(_) => Some("1 to 95: weights and code need the rest"),
                None => Some(
                    "`decode.cache_bytes` instead: this system does not say how much memory it has",
                ),
            };
            if let Some(expected) = expected {
                return Err(ConfigError::Contradiction {
                    key: "decode.cache_percent".to_owned(),
                    found: percent.to_string(),
                    expected: expected.to_owned(),
                });
            }
        }
        config::at_least(&[
            ("decode.cache_bytes", self.cache_bytes as u64, 1),
            ("decode.slots_max", self.slots_max as u64, 1),
            ("decode.batch_max", self.batch_max as u64, 1),
            ("decode.output_max", self.output_max as u64, ROOM_MIN as u64),
            ("decode.stall_timeout_ms", self.stall_timeout_ms, 1),
            (
                "decode.frames_in_flight_max",
                self.frames_in_flight_max.into(),
                1,
            ),
        ])
    }

    /// Pages of the pool; `device_bytes` is the memory of the GPU that it is on, if it is on one.
    pub(crate) fn pages(&self, page_bytes: usize, device_bytes: Option<u64>) -> usize {
        let all = device_bytes.or_else(memory_bytes);
        let share = self.cache_percent.zip(all);
        let bytes = share.map_or(self.cache_bytes, |(percent, all)| {
            (all / 100 * u64::from(percent)) as usize
        });
        bytes / page_bytes
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
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
        let sample = include_str!("../../deploy/config/decode.toml");
        let mut parsed: DecodeConfig = toml::from_str(sample).unwrap();
        assert!(
            parsed.model.path.take().is_some(),
            "the sample names a model"
        );
        let mut expected = DecodeConfig::default();
        expected.listen.address = parsed.listen.address;
        expected.http.listen = parsed.http.listen;
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_share_of_memory_takes_the_place_of_bytes() {
        let share = |percent| DecodeSection {
            cache_percent: Some(percent),
            ..Default::default()
        };
        let all = memory_bytes().unwrap() as usize;
        assert!(share(50).check().is_ok());
        assert_eq!(share(50).pages(4096, None), all / 100 * 50 / 4096);
        assert_eq!(share(25).pages(64, Some(6400)), 25);
        assert_eq!(
            DecodeSection::default().pages(4096, Some(1)),
            (1 << 30) / 4096
        );
        expect_test::expect![
            "`decode.cache_percent` is 96, expected 1 to 95: weights and code need the rest"
        ]
        .assert_eq(&share(96).check().unwrap_err().to_string());
        assert!(share(0).check().is_err());
    }

    #[test]
    fn a_bound_that_is_too_small_is_refused_by_its_key() {
        let section = DecodeSection {
            output_max: 1,
            ..Default::default()
        };
        expect_test::expect!["`decode.output_max` is 1, expected at least 3"]
            .assert_eq(&section.check().unwrap_err().to_string());
    }
}
