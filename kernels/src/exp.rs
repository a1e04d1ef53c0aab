//! A branch-free `exp` for softmax arguments, which a compiler can vectorise.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 split in two so that `x - k ln 2` keeps its low bits.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// Below this `exp` is a denormal f32; a softmax weight that small is taken as `exp(-87)`.
const LOWEST: f32 = -87.0;

/// `exp(x)` for x <= 0, relative error below 3e-7; arguments under -87 (also -inf) give `exp(-87)`,
/// which is 1.6e-38. Range reduction by powers of two, then the Taylor polynomial of degree 6
/// on |r| <= ln(2)/2.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    let x = if x > LOWEST { x } else { LOWEST };
    let rounded = x.mul_add(LOG2_E, ROUND);
    let k = rounded - ROUND;
    let r = k.mul_add(-LN_2_LOW, k.mul_add(-LN_2_HIGH, x));
    let p = r.mul_add(1.0 / 720.0, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = r.mul_add(p, 1.0);
    let p = r.mul_add(p, 1.0);
    // The low bits of `rounded` are k; moved to the exponent field they scale by 2^k.
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_std_over_the_softmax_range() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let (fast, exact) = (exp_nonpositive(x) as f64, (x as f64).exp());
            assert!(
                (fast - exact).abs() <= 3e-7 * exact,
                "x {x}: {fast} != {exact}"
            );
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert!(exp_nonpositive(f32::NEG_INFINITY) < 1e-37);
    }
}
