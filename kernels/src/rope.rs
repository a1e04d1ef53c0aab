//! Rotary position embedding in the halves layout: dimension `i` pairs with `i + D/2`.

use crate::vectorised::vectorised;

/// Rotates `x` `[T, heads, D]` in place. `cos` and `sin` are `[T, D/2]`, one row per token.
pub fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32], heads: usize, head_dim: usize) {
    let half = head_dim / 2;
    assert_eq!(head_dim % 2, 0, "rotary embedding needs an even head dim");
    assert_eq!(cos.len(), sin.len());
    assert_eq!(x.len() * half, cos.len() * heads * head_dim);
    vectorised!({
        let tokens = x.chunks_exact_mut(heads * head_dim);
        for ((token, cos), sin) in tokens
            .zip(cos.chunks_exact(half))
            .zip(sin.chunks_exact(half))
        {
            for head in token.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (low[i], high[i]);
                    low[i] = a * cos[i] - b * sin[i];
                    high[i] = b * cos[i] + a * sin[i];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut x = vec![1.0, 2.0, 3.0, 4.0];
        rotate_halves(&mut x, &[0.0, 1.0], &[1.0, 0.0], 1, 4);
        assert_eq!(x, vec![-3.0, 2.0, 1.0, 4.0]);
    }
}
