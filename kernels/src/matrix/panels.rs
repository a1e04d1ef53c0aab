//! Quantised weights into panels, and rows out of them.

use half::f16;
use rayon::prelude::*;

use super::ggml::{Block, BlockFormat};
use super::layout::{BLOCK, Codes, Layout, Min, PANEL_ROWS};

/// The rows of a matrix, `[rows, blocks of a row]` as in a file, as panels of eight; rows that are missing are
/// zeros.
pub(super) fn pack(format: BlockFormat, bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let layout = Layout::of(format);
    let row_bytes = cols / format.weights() * format.bytes();
    let panel_bytes = layout.panel_bytes(cols);
    let mut panels = vec![0; rows.div_ceil(PANEL_ROWS) * panel_bytes];
    panels
        .par_chunks_exact_mut(panel_bytes)
        .zip(bytes.par_chunks(PANEL_ROWS * row_bytes))
        .for_each(|(panel, rows)| {
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                let blocks = bytes.chunks_exact(format.bytes());
                for (group, block) in panel.chunks_exact_mut(layout.group_bytes()).zip(blocks) {
                    put(layout, group, row, &Block::read(format, block));
                }
            }
        });
    panels
}

/// Row `row` of packed weights, `[cols]`.
pub(super) fn read(format: BlockFormat, panels: &[u8], row: usize, cols: usize, out: &mut [f32]) {
    let layout = Layout::of(format);
    let panel_bytes = layout.panel_bytes(cols);
    let panel = &panels[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
    let groups = panel.chunks_exact(layout.group_bytes());
    for (group, out) in groups.zip(out.chunks_exact_mut(format.weights())) {
        widen(layout, group, row % PANEL_ROWS, out);
    }
}

fn put(layout: Layout, group: &mut [u8], row: usize, from: &Block) {
    let (units, blocks) = group.split_at_mut(layout.unit_bytes());
    let halves = [from.unit, from.min_unit].map(f16::to_le_bytes);
    for (unit, half) in units.chunks_exact_mut(2 * PANEL_ROWS).zip(halves) {
        unit[2 * row..2 * row + 2].copy_from_slice(&half);
    }
    for (index, block) in blocks.chunks_exact_mut(layout.block_bytes()).enumerate() {
        for k in 0..BLOCK {
            let code = from.codes[index * BLOCK + k];
            let [(low, low_shift), (high, high_shift)] = layout.place(row, k);
            match layout.codes {
                Codes::Eight => block[low] = code,
                Codes::Four => block[low] |= code << low_shift,
                Codes::Six => {
                    block[low] |= (code & 15) << low_shift;
                    block[high] |= code >> 4 << high_shift;
                }
            }
        }
        let scales = block[layout.code_bytes()..].chunks_exact_mut(layout.scale_bytes());
        let stride = if layout.stores_mins() { 2 } else { 1 };
        for (at, stored) in scales.enumerate() {
            let (run, is_min) = (at / stride, at % stride == 1);
            if layout.units {
                let run = index * layout.runs() + run;
                let value = if is_min {
                    from.mins[run]
                } else {
                    from.scales[run]
                };
                stored[row] = value as u8;
            } else {
                stored[2 * row..2 * row + 2].copy_from_slice(&halves[usize::from(is_min)]);
            }
        }
    }
}

/// One row of a group, as f32: `scale * code + min`, both rounded.
fn widen(layout: Layout, group: &[u8], row: usize, out: &mut [f32]) {
    let (units, blocks) = group.split_at(layout.unit_bytes());
    let half = |bytes: &[u8]| f16::from_le_bytes([bytes[2 * row], bytes[2 * row + 1]]).to_f32();
    let mut units = units.chunks_exact(2 * PANEL_ROWS).map(half);
    let (unit, min_unit) = (units.next().unwrap_or(1.0), units.next().unwrap_or(1.0));
    let read = |stored: &[u8], unit: f32| match layout.units {
        true => f32::from(stored[row] as i8) * unit,
        false => half(stored),
    };
    let blocks = blocks.chunks_exact(layout.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
        let mut scales = block[layout.code_bytes()..].chunks_exact(layout.scale_bytes());
        for (run, out) in out.chunks_exact_mut(layout.run).enumerate() {
            let mut next = || scales.next().expect("every run has its scales");
            let scale = read(next(), unit);
            let min = match layout.min {
                Min::Zero => 0.0,
                Min::Offset(scales) => -f32::from(scales) * scale,
                Min::Stored if layout.units => -read(next(), min_unit),
                Min::Stored => read(next(), 1.0),
            };
            for (k, out) in out.iter_mut().enumerate() {
                *out = scale * code(layout, block, row, run * layout.run + k) + min;
            }
        }
    }
}

fn code(layout: Layout, block: &[u8], row: usize, k: usize) -> f32 {
    let [(low, low_shift), (high, high_shift)] = layout.place(row, k);
    match layout.codes {
        Codes::Eight => f32::from(block[low] as i8),
        Codes::Four => f32::from(block[low] >> low_shift & 15),
        Codes::Six => {
            f32::from(block[low] >> low_shift & 15 | (block[high] >> high_shift & 3) << 4)
        }
    }
}
