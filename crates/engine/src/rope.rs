//! Rotary frequencies and their stretching. Keys are stored after the rotation, so a row keeps its
//! position wherever it is moved.

use std::f64::consts::PI;

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines by position, in the halves layout.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// Angle per position of each dimension pair, D/2.
    frequencies: Vec<f64>,
    /// Scale of the rotated values (YaRN's attention factor; 1 elsewhere).
    amplitude: f64,
}

impl Rope {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let half = config.head_dim / 2;
        let exponent = |i: usize| 2.0 * i as f64 / config.head_dim as f64;
        let theta = config.rope_theta as f64;
        let plain: Vec<f64> = (0..half).map(|i| theta.powf(-exponent(i))).collect();
        let frequencies = plain
            .iter()
            .enumerate()
            .map(|(i, &frequency)| stretch(frequency, i, config))
            .collect();
        let amplitude = match config.rope_scaling {
            RopeScaling::Yarn {
                factor,
                attention_factor,
                ..
            } => attention_factor.map_or(0.1 * (factor as f64).ln() + 1.0, |x| x as f64),
            _ => 1.0,
        };
        Self {
            frequencies,
            amplitude,
        }
    }

    /// Rows for `positions`: cosines and sines, each `[positions, D/2]`.
    pub(crate) fn angles(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &self.frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push((c * self.amplitude) as f32);
                sin.push((s * self.amplitude) as f32);
            }
        }
        (cos, sin)
    }
}

/// The stretched frequency of dimension pair `i`.
fn stretch(frequency: f64, i: usize, config: &ModelConfig) -> f64 {
    match &config.rope_scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / *factor as f64,
        RopeScaling::Divisors(divisors) => frequency / divisors[i] as f64,
        RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        } => {
            let rotations = *original_context as f64 * frequency / (2.0 * PI);
            let (low, high) = (*low_frequency_factor as f64, *high_frequency_factor as f64);
            let stretched = frequency / *factor as f64;
            if rotations < low {
                stretched
            } else if rotations > high {
                frequency
            } else {
                let smooth = (rotations - low) / (high - low);
                (1.0 - smooth) * stretched + smooth * frequency
            }
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            ..
        } => {
            let half = config.head_dim as f64 / 2.0;
            // Dimension pair that turns `rotations` times within the trained context.
            let pair = |rotations: f64| {
                half * (*original_context as f64 / (rotations * 2.0 * PI)).ln()
                    / (config.rope_theta as f64).ln()
            };
            let low = pair(*beta_fast as f64).floor().max(0.0);
            let high = pair(*beta_slow as f64)
                .ceil()
                .min(config.head_dim as f64 - 1.0);
            let width = if high > low { high - low } else { 0.001 };
            let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
            frequency / *factor as f64 * ramp + frequency * (1.0 - ramp)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(rope_scaling: RopeScaling) -> Rope {
        Rope::new(&ModelConfig {
            layers: 1,
            hidden: 16,
            intermediate: 16,
            q_heads: 1,
            kv_heads: 1,
            head_dim: 16,
            vocabulary: 1,
            context: 64,
            rms_epsilon: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: true,
            sliding_window: None,
        })
    }

    fn check(rope: &Rope, expected: [f64; 8]) {
        for (found, expected) in rope.frequencies.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-7 * expected,
                "{found} != {expected}"
            );
        }
    }

    /// Expected values: the published formulas, evaluated by a separate program.
    #[test]
    fn yarn_stretches_slow_dimensions_and_scales() {
        let rope = rope(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        });
        check(
            &rope,
            [
                1.0,
                0.23717082,
                0.05,
                0.0079056942,
                0.0025,
                0.00079056942,
                0.00025,
                7.9056942e-05,
            ],
        );
        assert!((rope.amplitude - 1.138629436).abs() < 1e-9);
        let (cos, sin) = rope.angles([0, 3].into_iter());
        assert_eq!((cos.len(), sin.len()), (16, 16));
        assert!((cos[0] - 1.138_629_4).abs() < 1e-6 && sin[0] == 0.0);
    }

    #[test]
    fn llama3_stretches_by_wavelength() {
        let rope = rope(RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 64,
        });
        check(
            &rope,
            [
                1.0,
                0.2443846,
                0.013042256,
                0.0039528471,
                0.00125,
                0.00039528471,
                0.000125,
                3.9528471e-05,
            ],
        );
    }
}
