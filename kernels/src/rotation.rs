//! An orthogonal map that spreads what is large in one channel over all of them, so that a packed row
//! can do with one scale. Dot products do not change under it.

use crate::isa::{Isa, with_isa};

/// Replaces `x` by `H S x`: `S` flips half of the signs, in a fixed pattern; `H` is the Walsh-Hadamard
/// matrix over `sqrt(size)`, or as many of them side by side as the largest power of two that divides the
/// length allows. Costs `O(len * log(size))`.
pub fn rotate(x: &mut [f32]) {
    flip(x);
    hadamard(x);
}

/// The inverse of [`rotate`].
pub fn rotate_back(x: &mut [f32]) {
    hadamard(x);
    flip(x);
}

/// Bits of the golden ratio: the signs to flip, again and again.
const SIGNS: u64 = 0x9e37_79b9_7f4a_7c15;

/// Without this, rows that are alike in all channels would end in one of them.
fn flip(x: &mut [f32]) {
    for chunk in x.chunks_mut(64) {
        for (i, x) in chunk.iter_mut().enumerate() {
            let sign = ((SIGNS >> i) as u32) << 31;
            *x = f32::from_bits(x.to_bits() ^ sign);
        }
    }
}

fn hadamard(x: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    let size = 1 << x.len().trailing_zeros();
    with_isa!(isa => {
        let mut half = 1;
        if size >= LANES {
            within_vectors(isa, x.as_chunks_mut().0);
            half = LANES;
        }
        while half < size {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let norm = 1.0 / (size as f32).sqrt();
        x.iter_mut().for_each(|x| *x *= norm);
    });
}

const LANES: usize = 8;

/// Sums and differences of elements 1, 2 and 4 apart: `(a, b)` to `(a + b, a - b)`.
#[inline(always)]
fn within_vectors<I: Isa>(isa: I, x: &mut [[f32; LANES]]) {
    let first = isa.floats(&[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]);
    let second = isa.floats(&[1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0]);
    let third = isa.floats(&[1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]);
    for x in x {
        let mut y = isa.floats(x);
        y = isa.multiply_add(y, first, isa.swap::<1>(y));
        y = isa.multiply_add(y, second, isa.swap::<2>(y));
        y = isa.multiply_add(y, third, isa.swap::<4>(y));
        isa.store(y, x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_matrix_that_it_says_and_turns_back(x in prop::collection::vec(-9.0f32..9.0, 1..200)) {
            let mut turned = x.clone();
            rotate(&mut turned);
            let mut signs = vec![1.0; x.len()];
            flip(&mut signs);
            prop_assert!(x.len() < 8 || signs.contains(&1.0) && signs.contains(&-1.0));
            for (fast, slow) in turned.iter().zip(reference::rotate(&x, &signs)) {
                prop_assert!((f64::from(*fast) - slow).abs() < 1e-4, "{fast} != {slow}");
            }
            rotate_back(&mut turned);
            for (back, x) in turned.iter().zip(&x) {
                prop_assert!((back - x).abs() < 1e-4, "{back} != {x}");
            }
        }
    }

    #[test]
    fn all_instructions_give_equal_bits() {
        let x: [f32; 16] = std::array::from_fn(|i| (i as f32 * 0.37).sin());
        let (mut best, mut plain) = (x, x);
        with_isa!(isa => within_vectors(isa, best.as_chunks_mut().0));
        within_vectors(crate::isa::Portable, plain.as_chunks_mut().0);
        assert_eq!(plain, best);
        assert_ne!(plain, x);
    }

    #[test]
    fn one_large_channel_and_equal_channels_are_spread() {
        let mut one = [0.0; 64];
        one[5] = 8.0;
        rotate(&mut one);
        assert!(one.iter().all(|x| (x.abs() - 1.0).abs() < 1e-5));
        let mut same = [1.0; 64];
        rotate(&mut same);
        let max = same.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        assert!(max < 4.0, "{max}");
    }
}
