//! RoPE scaling as the two formats state it.

use serde_json::{Value, json};

/// How a model stretches its rotary embedding past the context it was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Llama 3: long wavelengths are divided, short ones kept, with a ramp between. A GGUF file holds it as the
    /// tensor `rope_freqs.weight`.
    Llama3 {
        /// What long wavelengths are stretched by.
        factor: f64,
        /// Wavelengths over `original_context / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths under `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
    /// YaRN with its default ramp (32 and 1 rotations) and attention factor.
    Yarn {
        /// New context over old.
        factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
}

impl RopeScaling {
    /// The value of `rope_scaling` in config.json.
    pub(crate) fn hf_value(self) -> Value {
        match self {
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            }),
            Self::Yarn {
                factor,
                original_context,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_context,
            }),
        }
    }

    /// The divisors of the D/2 rotary frequencies, for Llama 3 only (the others have no such tensor).
    ///
    /// With wavelength w = 2π·theta^(2i/D), original context C, and factors `low` and `high`: 1 where
    /// w < C/high, `factor` where w > C/low, else 1 / ((1 - s)/factor + s) with s = (C/w - low)/(high - low).
    pub(crate) fn frequency_divisors(self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let Self::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context,
        } = self
        else {
            return None;
        };
        let divisor = |pair: usize| {
            let exponent = 2.0 * pair as f64 / head_dim as f64;
            let turns = original_context as f64 / (std::f64::consts::TAU * theta.powf(exponent));
            if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let share = (turns - low) / (high - low);
                1.0 / ((1.0 - share) / factor + share)
            }
        };
        Some((0..head_dim / 2).map(|pair| divisor(pair) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_wavelengths_are_kept_and_long_ones_divided_in_full() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let divisors = scaling.frequency_divisors(500_000.0, 128).unwrap();
        assert_eq!(divisors.len(), 64);
        assert_eq!((divisors[0], divisors[63]), (1.0, 8.0));
        assert!(divisors.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(
            divisors.iter().any(|&d| d > 1.0 && d < 8.0),
            "no frequency on the ramp"
        );
    }

    #[test]
    fn yarn_has_no_divisors() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
        };
        assert_eq!(scaling.frequency_divisors(10_000.0, 16), None);
    }
}
