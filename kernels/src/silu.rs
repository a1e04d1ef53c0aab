//! The gate of the MLP.

use rayon::prelude::*;

use crate::exp::exp_nonpositive;
use crate::vectorised::vectorised;

/// Values of a task.
const TASK: usize = 1 << 14;

/// `gate * sigmoid(gate) * up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn silu_product(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len());
    let mut out = vec![0.0; gate.len()];
    out.par_chunks_mut(TASK)
        .zip(gate.par_chunks(TASK))
        .zip(up.par_chunks(TASK))
        .for_each(|((out, gate), up)| {
            vectorised!({
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    // Below 1 whatever the sign, so nothing overflows.
                    let e = exp_nonpositive(-gate.abs());
                    let numerator = if gate >= 0.0 { 1.0 } else { e };
                    *out = gate * up * numerator / (1.0 + e);
                }
            });
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_its_formula() {
        let gate: Vec<f32> = (-3000..3000).map(|i| i as f32 / 50.0).collect();
        let up: Vec<f32> = gate.iter().map(|x| 2.0 - x / 7.0).collect();
        for ((found, gate), up) in silu_product(&gate, &up).iter().zip(&gate).zip(&up) {
            let (gate, up) = (f64::from(*gate), f64::from(*up));
            let expected = gate / (1.0 + (-gate).exp()) * up;
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error < 1e-6 * (1.0 + expected.abs()),
                "{found} != {expected}"
            );
        }
        assert!(silu_product(&[f32::NAN], &[1.0])[0].is_nan());
    }
}
