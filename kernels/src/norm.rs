//! Root-mean-square normalisation.

use rayon::prelude::*;

use crate::lanes;
use crate::vectorised::vectorised;

/// Values under which waking the other threads costs more than it saves.
const PARALLEL_MIN: usize = 1 << 15;

/// `x / sqrt(mean(x^2) + epsilon) * weight`, row by row: `x` is `[rows, len]`, `weight` `[len]`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let len = weight.len();
    assert!(
        x.len().is_multiple_of(len),
        "{} is not rows of {len}",
        x.len()
    );
    let mut out = vec![0.0; x.len()];
    out.par_chunks_exact_mut(len)
        .zip(x.par_chunks_exact(len))
        .with_min_len((PARALLEL_MIN / len).max(1))
        .for_each(|(out, x)| {
            vectorised!({
                let mean = lanes::sum_by(x, |x| x * x) / len as f32;
                let scale = 1.0 / (mean + epsilon).sqrt();
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * weight;
                }
            });
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_own_scale() {
        let out = rms_norm(&[3.0, 4.0, 0.0, 0.0, 6.0, 8.0], &[1.0, 2.0], 0.0);
        let expected = [3.0 / 3.535_534, 8.0 / 3.535_534];
        for (found, expected) in out[..2]
            .iter()
            .chain(&out[4..])
            .zip(expected.iter().cycle())
        {
            assert!((found - expected).abs() < 1e-6, "{found} != {expected}");
        }
        assert!(out[2].is_nan(), "0 / 0 without an epsilon");
        assert_eq!(rms_norm(&[0.0, 0.0], &[1.0, 1.0], 1e-5), [0.0, 0.0]);
    }
}
