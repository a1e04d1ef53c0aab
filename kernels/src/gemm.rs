//! Two small matrix products on borrowed slices, through the `gemm` crate. Single-threaded: the
//! callers already run one task per core.

use gemm::Parallelism;

/// A row-major matrix inside a larger slice: row `i` starts at `i * row_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<'a> Strided<'a> {
    pub(crate) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
        }
    }

    /// Elements from the first to the last one touched.
    fn extent(&self) -> usize {
        match self.rows {
            0 => 0,
            rows => (rows - 1) * self.row_stride + self.cols,
        }
    }
}

/// `out = a bᵀ`: a `[m, k]`, b `[n, k]`, out `[m, n]` dense.
pub(crate) fn product_transposed(out: &mut [f32], a: Strided<'_>, b: Strided<'_>) {
    assert_eq!(a.cols, b.cols, "inner dimensions differ");
    assert!(out.len() >= a.rows * b.rows, "output is too short");
    assert!(a.data.len() >= a.extent() && b.data.len() >= b.extent());
    let b_strides = (b.row_stride as isize, 1);
    run(out, (a.rows, b.rows, a.cols), a, b.data, b_strides, false);
}

/// `out += a b`: a `[m, k]`, b `[k, n]`, out `[m, n]` dense.
pub(crate) fn add_product(out: &mut [f32], a: Strided<'_>, b: Strided<'_>) {
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    assert!(out.len() >= a.rows * b.cols, "output is too short");
    assert!(a.data.len() >= a.extent() && b.data.len() >= b.extent());
    let b_strides = (1, b.row_stride as isize);
    run(out, (a.rows, b.cols, a.cols), a, b.data, b_strides, true);
}

#[allow(unsafe_code)]
/// `b_strides` are (column, row) strides of the right side as a `[k, n]` matrix.
fn run(
    out: &mut [f32],
    (m, n, k): (usize, usize, usize),
    a: Strided<'_>,
    b: &[f32],
    b_strides: (isize, isize),
    accumulate: bool,
) {
    // SAFETY: the callers above assert that `out`, `a.data` and `b` cover every element that the
    // given sizes and strides reach; `out` is borrowed mutably, so nothing aliases it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.data.as_ptr(),
            1,
            a.row_stride as isize,
            b.as_ptr(),
            b_strides.0,
            b_strides.1,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
