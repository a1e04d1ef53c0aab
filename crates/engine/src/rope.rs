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
            let high = pair(*beta_slow as f64).ceil().min(config.head_dim as f64 - 1.0);
            let width = if high > low { high - low } else { 0.001 };
            let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
            frequency / *factor as f64 * ramp + frequency * (1.0 - ramp)
        }
    }
}
