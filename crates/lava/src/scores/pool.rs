//! The pool along the positions of one row.

use std::ops::AddAssign;

use crate::{Config, Pool};

/// Pools `row` `[n]` into `out` `[n]`, stride 1. A sum is taken from left to right.
pub(super) fn pool(config: &Config, row: &[f32], out: &mut [f32]) {
    let reach = (config.kernel / 2).min(row.len());
    match config.pool {
        Pool::None => out.copy_from_slice(row),
        Pool::Max => {
            out.copy_from_slice(row);
            for shift in 1..=reach {
                apply(out, &row[shift..], raise);
                apply(&mut out[shift..], row, raise);
            }
            if config.shoulder_milli < 1000 {
                let shoulder = config.shoulder_milli as f32 / 1000.0;
                apply(out, row, |out, x| {
                    *out *= shoulder;
                    raise(out, x);
                });
            }
        }
        Pool::Avg => {
            out.fill(0.0);
            for shift in (1..=reach).rev() {
                apply(&mut out[shift..], row, f32::add_assign);
            }
            for shift in 0..=reach {
                apply(out, &row[shift..], f32::add_assign);
            }
            out.iter_mut().for_each(|x| *x /= config.kernel as f32);
        }
    }
}

/// `op(out[i], row[i])` for as many `i` as both have.
pub(super) fn apply(out: &mut [f32], row: &[f32], op: impl Fn(&mut f32, f32)) {
    for (out, &x) in out.iter_mut().zip(row) {
        op(out, x);
    }
}

/// Maximum that keeps a NaN of either side, which `f32::max` would hide. It stores always, so that
/// it vectorises.
pub(super) fn raise(out: &mut f32, x: f32) {
    *out = if x > *out || x.is_nan() { x } else { *out };
}
