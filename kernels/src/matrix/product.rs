//! `x wᵀ` over all threads.

use std::ops::Range;

use rayon::prelude::*;

use super::activations::{Activations, InputBlock};
use super::ggml::BlockFormat;
use super::layout::{BLOCK, Layout};
use super::quantised::Format;
use super::{Matrix, Panels, dense, quantised};
use crate::isa::{Isa, with_isa};

/// Input rows from which threads share rows rather than panels: each thread reads all of a matrix then, and its
/// rounded rows stay in its first-level cache.
const SHARE_ROWS_MIN: usize = 128;
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
    let mut outs: Vec<Vec<f32>> = matrices
        .iter()
        .map(|matrix| vec![0.0; rows * matrix.rows])
        .collect();
    if rows * width * cols < PARALLEL_MIN {
        by_rows(&mut outs, rows.max(1), &input, matrices);
        return outs;
    }
    if rows < SHARE_ROWS_MIN {
        by_panels(&mut outs, &input, matrices);
        return outs;
    }
    let most = match rounded {
        true => (INPUT_BYTES / (cols / BLOCK * size_of::<InputBlock>())).max(8),
        false => DENSE_ROWS,
    };
    // As many tasks for each thread, of whole tiles.
    let tasks = rows.div_ceil(most);
    let tasks = tasks.next_multiple_of(rayon::current_num_threads());
    let share = rows.div_ceil(tasks).next_multiple_of(4);
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
    let mut tasks: Vec<Vec<Part<'_>>> = Vec::new();
    for (out, matrix) in outs.iter_mut().zip(matrices) {
        for (index, out) in out.chunks_mut(share * matrix.rows).enumerate() {
            let part = Part {
                rows: out.chunks_exact_mut(matrix.rows).collect(),
            };
            match tasks.get_mut(index) {
                Some(task) => task.push(part),
                None => tasks.push(vec![part]),
            }
        }
    }
    tasks
        .into_par_iter()
        .enumerate()
        .for_each(|(index, parts)| {
            for (part, matrix) in parts.into_iter().zip(matrices) {
                fill(part, input, index * share, matrix, 0..matrix.panels());
            }
        });
}

/// All input rows, a share of the panels for each task.
fn by_panels(outs: &mut [Vec<f32>], input: &Input<'_>, matrices: &[&Matrix]) {
    let panels: usize = matrices.iter().map(|matrix| matrix.panels()).sum();
    let share = panels.div_ceil(TASKS_PER_THREAD * rayon::current_num_threads());
    let mut tasks = Vec::new();
    for (out, matrix) in outs.iter_mut().zip(matrices) {
        let starts = (0..matrix.panels()).step_by(share);
        let first = tasks.len();
        tasks.extend(starts.map(|start| {
            let panels = start..(start + share).min(matrix.panels());
            (*matrix, panels, Part { rows: Vec::new() })
        }));
        for row in out.chunks_exact_mut(matrix.rows) {
            let pieces = row.chunks_mut(share * matrix.panel_rows());
            for ((.., part), piece) in tasks[first..].iter_mut().zip(pieces) {
                part.rows.push(piece);
            }
        }
    }
    tasks.into_par_iter().for_each(|(matrix, panels, part)| {
        fill(part, input, 0, matrix, panels);
    });
}

/// Some columns of some rows of an output.
struct Part<'a> {
    rows: Vec<&'a mut [f32]>,
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
            .then(|| Activations::portable(x, matrix.cols)),
    };
    let rows = x.len() / matrix.cols;
    let mut out = vec![0.0; rows * matrix.rows];
    let part = Part {
        rows: out.chunks_exact_mut(matrix.rows).collect(),
    };
    match &matrix.panels {
        Panels::Dense(values) => {
            fill_dense(
                crate::isa::Portable,
                part,
                &input,
                0,
                values,
                0..matrix.panels(),
                matrix.rows,
            );
        }
        Panels::Quantised(format, bytes) => {
            let x = input.codes.as_ref().expect("the input was rounded");
            for_format!(*format, F => {
                fill_quantised::<F, _>(crate::isa::Portable, part, x, 0, bytes, 0..matrix.panels(), matrix.rows)
            });
        }
    }
    out
}

/// The products of the part's input rows, the first of which is `first`, with some panels of a matrix.
fn fill(part: Part<'_>, input: &Input<'_>, first: usize, matrix: &Matrix, panels: Range<usize>) {
    match &matrix.panels {
        Panels::Dense(values) => {
            with_isa!(isa => fill_dense(isa, part, input, first, values, panels, matrix.rows));
        }
        Panels::Quantised(format, bytes) => {
            let x = input.codes.as_ref().expect("the input was rounded");
            // Compiled one by one: in a single function the compiler merges what the formats share.
            for_format!(*format, F => {
                with_isa!(isa => fill_quantised::<F, _>(isa, part, x, first, bytes, panels, matrix.rows))
            });
        }
    }
}

#[inline(always)]
fn fill_quantised<F: Format, I: Isa>(
    isa: I,
    mut part: Part<'_>,
    x: &Activations,
    first: usize,
    bytes: &[u8],
    panels: Range<usize>,
    matrix_rows: usize,
) {
    let panel_bytes = const { F::LAYOUT }.panel_bytes(x.row_blocks() * BLOCK);
    let first_column = panels.start * 8;
    for index in panels {
        let (panel, behind) = bytes[index * panel_bytes..].split_at(panel_bytes);
        let mut ahead = behind.get(..panel_bytes).unwrap_or_default();
        let valid = (matrix_rows - index * 8).min(8);
        let column = index * 8 - first_column;
        let mut row = 0;
        while row < part.rows.len() {
            macro_rules! tile {
                ($m:literal) => {{
                    let mut out = [[0.0; 8]; $m];
                    quantised::tile::<F, I, $m>(isa, panel, ahead, x, first + row, &mut out);
                    ahead = &[];
                    part.put(row, column, valid, &out);
                    row += $m;
                }};
            }
            match part.rows.len() - row {
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
    first: usize,
    values: &[f32],
    panels: Range<usize>,
    matrix_rows: usize,
) {
    let panel_len = dense::PANEL_ROWS * input.cols;
    let first_column = panels.start * dense::PANEL_ROWS;
    for index in panels {
        let panel = &values[index * panel_len..][..panel_len];
        let valid = (matrix_rows - index * dense::PANEL_ROWS).min(dense::PANEL_ROWS);
        let column = index * dense::PANEL_ROWS - first_column;
        for (piece, panel) in panel.chunks(dense::COLUMNS * dense::PANEL_ROWS).enumerate() {
            let columns = panel.len() / dense::PANEL_ROWS;
            let start = piece * dense::COLUMNS;
            let mut row = 0;
            while row < part.rows.len() {
                macro_rules! tile {
                    ($m:literal) => {{
                        let x: [&[f32]; $m] = std::array::from_fn(|m| {
                            &input.x[(first + row + m) * input.cols + start..][..columns]
                        });
                        let mut out = match piece {
                            0 => [[0.0; dense::PANEL_ROWS]; $m],
                            _ => part.get(row, column, valid),
                        };
                        dense::tile::<I, $m>(isa, panel, x, &mut out);
                        part.put(row, column, valid, &out);
                        row += $m;
                    }};
                }
                match part.rows.len() - row {
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
            values[..valid].copy_from_slice(&self.rows[row + m][column..column + valid]);
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
            let out = &mut self.rows[row + m][column..column + valid];
            match valid == P {
                true => out.copy_from_slice(values),
                false => out.copy_from_slice(&values[..valid]),
            }
        }
    }
}
