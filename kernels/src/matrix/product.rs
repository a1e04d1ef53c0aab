//! `x wᵀ` over all threads.

use std::ops::Range;

use rayon::prelude::*;

use super::activations::{Activations, InputBlock};
use super::ggml::BlockFormat;
use super::layout::{BLOCK, Layout};
use super::quantised::Format;
use super::{Matrix, Panels, dense, quantised};
use crate::isa::{Isa, with_isa};

/// Input rows from which threads share rows rather than panels: a matrix is read once per thread then.
const SHARE_ROWS_MIN: usize = 32;
/// Rounded input of a task, so that it stays in the first-level cache while panels pass.
const INPUT_BYTES: usize = 24 << 10;
/// Input rows of a task with f32 weights: a panel, which is the larger side, is read once for so many.
const DENSE_ROWS: usize = 48;
/// Panels are shared in so many tasks per thread.
const TASKS_PER_THREAD: usize = 2;
/// Multiply-adds under which waking the other threads costs more than it saves.
const PARALLEL_MIN: usize = 1 << 16;

/// Evaluates an expression with the type of a format.
macro_rules! for_format {
    ($format:expr, $F:ident => $body:expr) => {
        for_format!(@ $format, $F, $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K)
    };
    (@ $format:expr, $F:ident, $body:expr, $($name:ident)*) => {
        match $format {
            $(BlockFormat::$name => {
                struct $F;
                impl Format for $F {
                    const LAYOUT: Layout = Layout::of(BlockFormat::$name);
                }
                $body
            })*
        }
    };
}

/// `x wᵀ`: `x` is `[rows, cols]`, the answer `[rows, matrix rows]`, f32.
///
/// With quantised weights the input is rounded to 8 bits with a scale for each 32 values. A row of the answer
/// depends on its row of `x` only, to the bit.
///
/// # Panics
/// If `x` is not whole rows.
pub fn product(x: &[f32], matrix: &Matrix) -> Vec<f32> {
    products(x, &[matrix]).remove(0)
}

/// [`product`] with several matrices, which share the rounded input and the wait for other threads.
///
/// # Panics
/// If `x` is not whole rows, or the matrices differ in their columns.
pub fn products(x: &[f32], matrices: &[&Matrix]) -> Vec<Vec<f32>> {
    let cols = matrices[0].cols;
    assert!(
        x.len().is_multiple_of(cols),
        "{} is not rows of {cols}",
        x.len()
    );
    for matrix in matrices {
        assert_eq!(matrix.cols, cols, "matrices side by side");
    }
    let rows = x.len() / cols;
    let is_quantised = |matrix: &&Matrix| matches!(matrix.panels, Panels::Quantised(..));
    let rounded = matrices.iter().any(is_quantised);
    let input = Input {
        x,
        cols,
        codes: rounded.then(|| Activations::new(x, cols)),
    };
    let width: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    if rows < SHARE_ROWS_MIN && rows * width * cols >= PARALLEL_MIN {
        return by_panels(&input, rows, matrices);
    }
    let fair = rows.div_ceil(rayon::current_num_threads());
    let share = match rounded {
        true => (INPUT_BYTES / (cols / BLOCK * size_of::<InputBlock>()))
            .max(8)
            .min(fair),
        false => DENSE_ROWS.min(fair),
    };
    // Whole tiles of both kinds.
    let share = share.next_multiple_of(12);
    let mut outs: Vec<Vec<f32>> = matrices
        .iter()
        .map(|matrix| vec![0.0; rows * matrix.rows])
        .collect();
    by_rows(&mut outs, share, &input, matrices);
    outs
}

/// The left side.
struct Input<'a> {
    x: &'a [f32],
    cols: usize,
    codes: Option<Activations>,
}

/// All panels for a share of the input rows in each task.
fn by_rows(outs: &mut [Vec<f32>], share: usize, input: &Input<'_>, matrices: &[&Matrix]) {
    let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
    for (out, matrix) in outs.iter_mut().zip(matrices) {
        for (index, out) in out.chunks_mut(share * matrix.rows).enumerate() {
            match tasks.get_mut(index) {
                Some(task) => task.push(out),
                None => tasks.push(vec![out]),
            }
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(index, outs)| {
        for (out, matrix) in outs.into_iter().zip(matrices) {
            let first = index * share;
            let rows = first..first + out.len() / matrix.rows;
            let part = Part {
                out,
                stride: matrix.rows,
            };
            fill(part, input, rows, matrix, 0..matrix.panels());
        }
    });
}

/// All input rows, a share of the panels for each task.
fn by_panels(input: &Input<'_>, rows: usize, matrices: &[&Matrix]) -> Vec<Vec<f32>> {
    let panels: usize = matrices.iter().map(|matrix| matrix.panels()).sum();
    let share = panels.div_ceil(TASKS_PER_THREAD * rayon::current_num_threads());
    let mut tasks = Vec::new();
    for (index, matrix) in matrices.iter().enumerate() {
        for first in (0..matrix.panels()).step_by(share) {
            let panels = first..(first + share).min(matrix.panels());
            let column = |panel: usize| (panel * matrix.panel_rows()).min(matrix.rows);
            tasks.push((
                index,
                panels.clone(),
                column(panels.start)..column(panels.end),
            ));
        }
    }
    let parts: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|(index, panels, columns)| {
            let mut out = vec![0.0; rows * columns.len()];
            let part = Part {
                out: &mut out,
                stride: columns.len(),
            };
            fill(part, input, 0..rows, matrices[*index], panels.clone());
            out
        })
        .collect();
    let mut outs: Vec<Vec<f32>> = matrices
        .iter()
        .map(|matrix| vec![0.0; rows * matrix.rows])
        .collect();
    for ((index, _panels, columns), part) in tasks.iter().zip(&parts) {
        let width = matrices[*index].rows;
        let rows = outs[*index].chunks_exact_mut(width);
        for (out, part) in rows.zip(part.chunks_exact(columns.len())) {
            out[columns.clone()].copy_from_slice(part);
        }
    }
    outs
}

/// A part of an output: rows of `stride` values.
struct Part<'a> {
    out: &'a mut [f32],
    stride: usize,
}

/// [`product`] without the instructions of this machine.
#[cfg(test)]
pub(super) fn portable(x: &[f32], matrix: &Matrix) -> Vec<f32> {
    let input = Input {
        x,
        cols: matrix.cols,
        codes: matrix
            .format()
            .is_some()
            .then(|| Activations::new(x, matrix.cols)),
    };
    let rows = x.len() / matrix.cols;
    let mut out = vec![0.0; rows * matrix.rows];
    let part = Part {
        out: &mut out,
        stride: matrix.rows,
    };
    let rows = 0..rows;
    match &matrix.panels {
        Panels::Dense(values) => {
            fill_dense(
                crate::isa::Portable,
                part,
                &input,
                rows,
                values,
                0..matrix.panels(),
                matrix.rows,
            );
        }
        Panels::Quantised(format, bytes) => {
            let x = input.codes.as_ref().expect("the input was rounded");
            for_format!(*format, F => {
                fill_quantised::<F, _>(crate::isa::Portable, part, x, rows, bytes, 0..matrix.panels(), matrix.rows)
            });
        }
    }
    out
}

/// The products of input rows with some panels of a matrix.
fn fill(
    part: Part<'_>,
    input: &Input<'_>,
    rows: Range<usize>,
    matrix: &Matrix,
    panels: Range<usize>,
) {
    match &matrix.panels {
        Panels::Dense(values) => {
            with_isa!(isa => fill_dense(isa, part, input, rows, values, panels, matrix.rows));
        }
        Panels::Quantised(format, bytes) => {
            let x = input.codes.as_ref().expect("the input was rounded");
            // Compiled one by one: in a single function the compiler merges what the formats share.
            for_format!(*format, F => {
                with_isa!(isa => fill_quantised::<F, _>(isa, part, x, rows, bytes, panels, matrix.rows))
            });
        }
    }
}

#[inline(always)]
fn fill_quantised<F: Format, I: Isa>(
    isa: I,
    mut part: Part<'_>,
    x: &Activations,
    rows: Range<usize>,
    bytes: &[u8],
    panels: Range<usize>,
    matrix_rows: usize,
) {
    let panel_bytes = const { F::LAYOUT }.panel_bytes(x.row_blocks() * BLOCK);
    let first_row = panels.start * 8;
    for index in panels {
        let panel = &bytes[index * panel_bytes..][..panel_bytes];
        let valid = (matrix_rows - index * 8).min(8);
        let column = index * 8 - first_row;
        let mut row = rows.start;
        while row < rows.end {
            macro_rules! tile {
                ($m:literal) => {{
                    let mut out = [[0.0; 8]; $m];
                    quantised::tile::<F, I, $m>(isa, panel, x, row, &mut out);
                    part.put(row - rows.start, column, valid, &out);
                    row += $m;
                }};
            }
            match rows.end - row {
                1 => tile!(1),
                2 => tile!(2),
                3 => tile!(3),
                _ => tile!(4),
            }
        }
    }
}

#[inline(always)]
fn fill_dense<I: Isa>(
    isa: I,
    mut part: Part<'_>,
    input: &Input<'_>,
    rows: Range<usize>,
    values: &[f32],
    panels: Range<usize>,
    matrix_rows: usize,
) {
    let panel_len = dense::PANEL_ROWS * input.cols;
    let first_row = panels.start * dense::PANEL_ROWS;
    for index in panels {
        let panel = &values[index * panel_len..][..panel_len];
        let valid = (matrix_rows - index * dense::PANEL_ROWS).min(dense::PANEL_ROWS);
        let column = index * dense::PANEL_ROWS - first_row;
        for (piece, panel) in panel.chunks(dense::COLUMNS * dense::PANEL_ROWS).enumerate() {
            let columns = panel.len() / dense::PANEL_ROWS;
            let start = piece * dense::COLUMNS;
            let mut row = rows.start;
            while row < rows.end {
                macro_rules! tile {
                    ($m:literal) => {{
                        let x: [&[f32]; $m] = std::array::from_fn(|m| {
                            &input.x[(row + m) * input.cols + start..][..columns]
                        });
                        let mut out = match piece {
                            0 => [[0.0; dense::PANEL_ROWS]; $m],
                            _ => part.get(row - rows.start, column, valid),
                        };
                        dense::tile::<I, $m>(isa, panel, x, &mut out);
                        part.put(row - rows.start, column, valid, &out);
                        row += $m;
                    }};
                }
                match rows.end - row {
                    1 => tile!(1),
                    2 => tile!(2),
                    3 => tile!(3),
                    4 | 8 => tile!(4),
                    5 => tile!(5),
                    _ => tile!(6),
                }
            }
        }
    }
}

impl Part<'_> {
    /// What was put; zeros in columns that are not there.
    #[inline(always)]
    fn get<const P: usize, const M: usize>(
        &self,
        row: usize,
        column: usize,
        valid: usize,
    ) -> [[f32; P]; M] {
        let mut tile = [[0.0; P]; M];
        for (m, values) in tile.iter_mut().enumerate() {
            let at = (row + m) * self.stride + column;
            values[..valid].copy_from_slice(&self.out[at..at + valid]);
        }
        tile
    }

    /// The first `valid` columns of a tile.
    #[inline(always)]
    fn put<const P: usize, const M: usize>(
        &mut self,
        row: usize,
        column: usize,
        valid: usize,
        tile: &[[f32; P]; M],
    ) {
        for (m, values) in tile.iter().enumerate() {
            let at = (row + m) * self.stride + column;
            match valid == P {
                true => self.out[at..at + P].copy_from_slice(values),
                false => self.out[at..at + valid].copy_from_slice(&values[..valid]),
            }
        }
    }
}
