//! What is simulated: a model, how long things take, and what goes wrong.

use std::path::PathBuf;
use std::time::Duration;

use lava_kv::RowFormat;
use lava_node::{ConfigError, config};
use serde::Deserialize;

use crate::fault::FaultSection;

/// A profile as it is written. `deploy/config/simulate.toml` explains every key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Every choice follows from it.
    pub seed: u64,
    /// Time for what runs when a worker is told to end.
    pub drain_timeout_ms: u64,
    /// What is served.
    pub model: ModelProfile,
    /// Of prefill workers.
    pub prefill: PrefillTimes,
    /// Between the two.
    pub transfer: TransferTimes,
    /// Of decode workers.
    pub decode: DecodeTimes,
    /// What goes wrong.
    pub faults: Vec<FaultSection>,
}

/// The model that there is none of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelProfile {
    /// A folder with tokenizer files or a `.gguf` file, whose text files are handed out. Must be given.
    pub text: Option<PathBuf>,
    /// Name that requests ask for.
    pub name: String,
    /// L.
    pub layers: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// V; ids of the tokenizer are below it.
    pub vocabulary: u32,
    /// Most tokens of a prompt and its answer.
    pub positions_max: usize,
}

/// How long prompts take.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefillTimes {
    /// Of every prompt, milliseconds.
    pub prompt_ms: f64,
    /// Prompt tokens of a second, one prompt after another; none take no time.
    pub tokens_per_second: Option<f64>,
    /// Requests that wait or run.
    pub queue_max: usize,
    /// Tokens of the fronts of recent prompts that are kept and need not be computed again.
    pub prefix_tokens: usize,
}

/// How long caches take.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferTimes {
    /// Of caches; none take no time.
    pub bytes_per_second: Option<f64>,
    /// Bytes of a cache for each that the profile's own shape has at most: of a real model, which is larger.
    pub bytes_for_each: f64,
    /// Bytes of rows that are sent at most, whatever a real cache has.
    pub row_bytes_max: usize,
}

/// How long tokens take, and how many sequences there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeTimes {
    /// Of a step, milliseconds.
    pub step_ms: f64,
    /// More for each of its sequences, microseconds.
    pub sequence_us: f64,
    /// Tokens that a sequence gets in one message, for as many steps' time.
    pub tokens_per_message: usize,
    /// Memory for caches, bytes.
    pub cache_bytes: u64,
    /// Sequences that wait for their cache or run.
    pub slots_max: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            seed: 0,
            drain_timeout_ms: 30_000,
            model: ModelProfile::default(),
            prefill: PrefillTimes::default(),
            transfer: TransferTimes::default(),
            decode: DecodeTimes::default(),
            faults: Vec::new(),
        }
    }
}

impl Default for ModelProfile {
    /// As small as it can be: what is always kept of a prompt has 32 kB, and hundreds of workers share a machine.
    fn default() -> Self {
        Self {
            text: None,
            name: "simulated".to_owned(),
            layers: 4,
            kv_heads: 2,
            head_dim: 32,
            vocabulary: 49_152,
            positions_max: 131_072,
        }
    }
}

impl Default for PrefillTimes {
    fn default() -> Self {
        Self {
            prompt_ms: 0.0,
            tokens_per_second: None,
            queue_max: 64,
            prefix_tokens: 0,
        }
    }
}

impl Default for TransferTimes {
    fn default() -> Self {
        Self {
            bytes_per_second: None,
            bytes_for_each: 1.0,
            row_bytes_max: 64 << 10,
        }
    }
}

impl Default for DecodeTimes {
    fn default() -> Self {
        Self {
            step_ms: 0.0,
            sequence_us: 0.0,
            tokens_per_message: 1,
            cache_bytes: 1 << 30,
            slots_max: 1024,
        }
    }
}

impl Profile {
    /// # Errors
    /// A value makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let model = &self.model;
        config::at_least(&[
            ("model.layers", model.layers as u64, 1),
            ("model.kv_heads", model.kv_heads as u64, 1),
            ("model.head_dim", model.head_dim as u64, 2),
            ("model.vocabulary", model.vocabulary.into(), 2),
            ("model.positions_max", model.positions_max as u64, 2),
            ("prefill.queue_max", self.prefill.queue_max as u64, 1),
            (
                "transfer.row_bytes_max",
                self.transfer.row_bytes_max as u64,
                1,
            ),
            (
                "decode.tokens_per_message",
                self.decode.tokens_per_message as u64,
                1,
            ),
            ("decode.cache_bytes", self.decode.cache_bytes, 1),
            ("decode.slots_max", self.decode.slots_max as u64, 1),
        ])?;
        let times = [
            ("prefill.prompt_ms", Some(self.prefill.prompt_ms)),
            ("prefill.tokens_per_second", self.prefill.tokens_per_second),
            ("transfer.bytes_per_second", self.transfer.bytes_per_second),
            (
                "transfer.bytes_for_each",
                Some(self.transfer.bytes_for_each),
            ),
            ("decode.step_ms", Some(self.decode.step_ms)),
            ("decode.sequence_us", Some(self.decode.sequence_us)),
        ];
        for (key, value) in times {
            let Some(value) = value else { continue };
            let is_rate = key.ends_with("per_second");
            if !value.is_finite() || value < 0.0 || (is_rate && value == 0.0) {
                return Err(ConfigError::Contradiction {
                    key: key.into(),
                    found: value.to_string(),
                    expected: match is_rate {
                        true => "more than 0".into(),
                        false => "0 or more".into(),
                    },
                });
            }
        }
        self.faults.iter().try_for_each(FaultSection::check)
    }
}

impl PrefillTimes {
    pub(crate) fn of(&self, tokens: usize) -> Duration {
        let computed = self
            .tokens_per_second
            .map_or(0.0, |rate| tokens as f64 / rate);
        Duration::from_secs_f64(self.prompt_ms / 1e3 + computed)
    }
}

impl TransferTimes {
    pub(crate) fn of(&self, bytes: usize) -> Duration {
        let bytes = bytes as f64 * self.bytes_for_each;
        Duration::from_secs_f64(self.bytes_per_second.map_or(0.0, |rate| bytes / rate))
    }
}

impl DecodeTimes {
    /// Of the steps that make one message for each of so many sequences.
    pub(crate) fn of(&self, sequences: usize) -> Duration {
        let step = self.step_ms / 1e3 + sequences as f64 * self.sequence_us / 1e6;
        Duration::from_secs_f64(step * self.tokens_per_message as f64)
    }
}

/// Row formats of all simulated workers.
pub(crate) const ROW_FORMATS: [RowFormat; 6] = RowFormat::ALL;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_the_defaults() {
        let sample = include_str!("../../../deploy/config/simulate.toml");
        let mut parsed: Profile = toml::from_str(sample).unwrap();
        parsed.check().unwrap();
        assert!(
            parsed.model.text.take().is_some(),
            "the sample names a tokenizer"
        );
        assert_eq!(parsed, Profile::default());
    }

    #[test]
    fn times_follow_from_rates() {
        let prefill = PrefillTimes {
            prompt_ms: 5.0,
            tokens_per_second: Some(10_000.0),
            queue_max: 1,
            prefix_tokens: 0,
        };
        assert_eq!(prefill.of(2_000), Duration::from_millis(205));
        let transfer = TransferTimes {
            bytes_per_second: Some(1e9),
            bytes_for_each: 100.0,
            ..Default::default()
        };
        assert_eq!(transfer.of(1_000_000), Duration::from_millis(100));
        let decode = DecodeTimes {
            step_ms: 10.0,
            sequence_us: 100.0,
            tokens_per_message: 2,
            ..Default::default()
        };
        assert_eq!(decode.of(50), Duration::from_millis(30));
        assert_eq!(TransferTimes::default().of(1 << 40), Duration::ZERO);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let refused = |profile: Profile| profile.check().unwrap_err().to_string();
        let mut profile = Profile::default();
        profile.prefill.tokens_per_second = Some(0.0);
        assert_eq!(
            refused(profile),
            "`prefill.tokens_per_second` is 0, expected more than 0"
        );
        let mut profile = Profile::default();
        profile.decode.step_ms = f64::NAN;
        assert_eq!(
            refused(profile),
            "`decode.step_ms` is NaN, expected 0 or more"
        );
        let mut profile = Profile::default();
        profile.model.layers = 0;
        assert_eq!(refused(profile), "`model.layers` is 0, expected at least 1");
    }
}
