//! Reductions over f32 slices in 16 independent lanes: one fixed order on every machine, and a
//! shape that compiles to vector instructions.

const LANES: usize = 16;

/// Largest value; -inf for an empty slice. NaN never wins.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// Largest absolute value; 0 for an empty slice. NaN never wins.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
        }
    }
    let all = lanes.iter().chain(tail);
    all.fold(0.0, |m, &v| if v.abs() > m { v.abs() } else { m })
}

/// Sum of `f` over the elements.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    fold(&lanes) + tail.iter().map(|&v| f(v)).sum::<f32>()
}

/// Sum of absolute values.
#[inline(always)]
pub(crate) fn abs_sum(x: &[f32]) -> f32 {
    sum_by(x, f32::abs)
}

/// Dot product of two slices of one length.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (x_tail, y_tail) = (xs.remainder(), ys.remainder());
    for (a, b) in xs.zip(ys) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    let tail = x_tail
        .iter()
        .zip(y_tail)
        .fold(0.0, |s: f32, (a, b)| a.mul_add(*b, s));
    fold(&lanes) + tail
}

/// `y += a * x`.
#[inline(always)]
pub(crate) fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

/// Replaces each `x` by `exp(x - shift)` and returns the sum. `shift` is at least the maximum.
#[inline(always)]
pub(crate) fn exp_and_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = crate::exp::exp_nonpositive(*v - shift);
            *lane += *v;
        }
    }
    let mut tail = 0.0;
    for v in chunks.into_remainder() {
        *v = crate::exp::exp_nonpositive(*v - shift);
        tail += *v;
    }
    fold(&lanes) + tail
}

/// Pairwise sum of the lanes.
#[inline(always)]
fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut half = [0.0f32; LANES / 2];
    for i in 0..LANES / 2 {
        half[i] = lanes[i] + lanes[i + LANES / 2];
    }
    (half[0] + half[4]) + (half[1] + half[5]) + ((half[2] + half[6]) + (half[3] + half[7]))
}
