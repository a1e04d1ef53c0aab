//! Products with f32 weights. As for quantised ones, an output does not depend on the rows beside it.

use crate::isa::Isa;

/// Rows of a panel.
pub(super) const PANEL_ROWS: usize = 16;

/// Columns of a panel that are multiplied at once, so that they stay in the second-level cache while rows pass.
pub(super) const COLUMNS: usize = 1024;

/// Weights `[rows, cols]` as panels of sixteen rows, `[panels, cols, 16]`; rows that are missing are zeros.
pub(super) fn pack(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut panels = vec![0.0; rows.div_ceil(PANEL_ROWS) * PANEL_ROWS * cols];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        let panel = &mut panels[row / PANEL_ROWS * PANEL_ROWS * cols..][..PANEL_ROWS * cols];
        let (columns, _) = panel.as_chunks_mut::<PANEL_ROWS>();
        for (column, value) in columns.iter_mut().zip(values) {
            column[row % PANEL_ROWS] = *value;
        }
    }
    panels
}

/// Row `row` of packed weights.
pub(super) fn read(panels: &[f32], row: usize, cols: usize, out: &mut [f32]) {
    let panel = &panels[row / PANEL_ROWS * PANEL_ROWS * cols..][..PANEL_ROWS * cols];
    let (columns, _) = panel.as_chunks::<PANEL_ROWS>();
    for (out, column) in out.iter_mut().zip(columns) {
        *out = column[row % PANEL_ROWS];
    }
}

/// Adds the products of M pieces of input rows with as many columns of a panel to `out`.
#[inline(always)]
pub(super) fn tile<I: Isa, const M: usize>(
    isa: I,
    panel: &[f32],
    x: [&[f32]; M],
    out: &mut [[f32; PANEL_ROWS]; M],
) {
    let (columns, _) = panel.as_chunks::<PANEL_ROWS>();
    let x = x.map(|row| &row[..columns.len()]);
    let mut acc: [[I::Floats; 2]; M] = std::array::from_fn(|m| {
        let (halves, _) = out[m].as_chunks::<8>();
        [isa.floats(&halves[0]), isa.floats(&halves[1])]
    });
    for (k, column) in columns.iter().enumerate() {
        let (halves, _) = column.as_chunks::<8>();
        let weights = [isa.floats(&halves[0]), isa.floats(&halves[1])];
        for m in 0..M {
            let input = isa.splat(x[m][k]);
            acc[m] = [
                isa.multiply_add(input, weights[0], acc[m][0]),
                isa.multiply_add(input, weights[1], acc[m][1]),
            ];
        }
    }
    for (acc, out) in acc.iter().zip(out) {
        let (halves, _) = out.as_chunks_mut::<8>();
        for (acc, half) in acc.iter().zip(halves) {
            isa.store(*acc, half);
        }
    }
}
