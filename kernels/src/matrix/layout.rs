//! How quantised weights lie in memory: eight rows of the matrix side by side, so that a vector register holds
//! four neighbouring weights of each and products need no sums across lanes.

use super::ggml::BlockFormat;

/// Rows of a panel.
pub(super) const PANEL_ROWS: usize = 8;
/// Weights of a row in a block.
pub(super) const BLOCK: usize = 32;

/// Width of a code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// Below 16.
    Four,
    /// Below 64: four bits, and two more beside them.
    Six,
    /// -128..=127.
    Eight,
}

/// What is added to `scale * code`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Min {
    /// Nothing.
    Zero,
    /// It is stored beside the scale.
    Stored,
    /// So many scales are subtracted.
    Offset(u8),
}

/// A panel is a row of groups. A group is, for its eight rows: in the K formats the units; then blocks. A block
/// is codes, and for each run of weights the scales and, if stored, the mins of the eight rows.
///
/// Codes of step `s` are four weights `4 s..4 s + 4` of each row. A vector of 32 bytes has step `v` in its low
/// halves and step `v + 4` in its high ones; two more bits of step `4 u + t` are bits `2 t` of vector `u`.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) codes: Codes,
    /// Weights that share a scale: 16 or 32.
    pub(super) run: usize,
    /// K formats: scales and mins are signed bytes, in units for 256 weights.
    pub(super) units: bool,
    pub(super) min: Min,
}

impl Layout {
    pub(super) const fn of(format: BlockFormat) -> Self {
        let (codes, run, min) = match format {
            BlockFormat::Q4_0 => (Codes::Four, 32, Min::Offset(8)),
            BlockFormat::Q4_1 | BlockFormat::Q4K => (Codes::Four, 32, Min::Stored),
            BlockFormat::Q5_0 => (Codes::Six, 32, Min::Offset(16)),
            BlockFormat::Q5_1 | BlockFormat::Q5K => (Codes::Six, 32, Min::Stored),
            BlockFormat::Q8_0 => (Codes::Eight, 32, Min::Zero),
            BlockFormat::Q2K => (Codes::Four, 16, Min::Stored),
            BlockFormat::Q3K => (Codes::Four, 16, Min::Offset(4)),
            BlockFormat::Q6K => (Codes::Six, 16, Min::Offset(32)),
        };
        let units = format.weights() == 256;
        Self {
            codes,
            run,
            units,
            min,
        }
    }

    /// Scales per row in a block.
    pub(super) const fn runs(self) -> usize {
        BLOCK / self.run
    }

    pub(super) const fn stores_mins(self) -> bool {
        matches!(self.min, Min::Stored)
    }

    /// Bytes of the codes of a block.
    pub(super) const fn code_bytes(self) -> usize {
        match self.codes {
            Codes::Four => PANEL_ROWS * BLOCK / 2,
            Codes::Six => PANEL_ROWS * BLOCK * 3 / 4,
            Codes::Eight => PANEL_ROWS * BLOCK,
        }
    }

    /// Bytes of the scales, or of the mins, of a run.
    pub(super) const fn scale_bytes(self) -> usize {
        match self.units {
            true => PANEL_ROWS,
            false => 2 * PANEL_ROWS,
        }
    }

    pub(super) const fn block_bytes(self) -> usize {
        let halves = if self.stores_mins() { 2 } else { 1 };
        self.code_bytes() + self.runs() * halves * self.scale_bytes()
    }

    /// Bytes of the units in front of a group.
    pub(super) const fn unit_bytes(self) -> usize {
        match (self.units, self.stores_mins()) {
            (false, _) => 0,
            (true, false) => 2 * PANEL_ROWS,
            (true, true) => 4 * PANEL_ROWS,
        }
    }

    /// Blocks of a group.
    pub(super) const fn blocks(self) -> usize {
        if self.units { 256 / BLOCK } else { 1 }
    }

    pub(super) const fn group_bytes(self) -> usize {
        self.unit_bytes() + self.blocks() * self.block_bytes()
    }

    /// Bytes of a panel with `cols` weights in a row.
    pub(super) const fn panel_bytes(self, cols: usize) -> usize {
        cols / (self.blocks() * BLOCK) * self.group_bytes()
    }

    /// Byte and shift of the low bits of weight `k` of a block in row `row`, and of its two high bits.
    pub(super) const fn place(self, row: usize, k: usize) -> [(usize, u32); 2] {
        let (step, lane) = (k / 4, row * 4 + k % 4);
        match self.codes {
            Codes::Eight => [(step * 32 + lane, 0), (0, 0)],
            _ => [
                (step % 4 * 32 + lane, step as u32 / 4 * 4),
                (128 + step / 4 * 32 + lane, step as u32 % 4 * 2),
            ],
        }
    }
}
