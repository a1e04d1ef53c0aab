//! Weight matrices as the engine multiplies with them.

mod activations;
mod dense;
mod ggml;
mod layout;
mod panels;
mod product;
mod quantised;

pub use ggml::BlockFormat;
pub use product::{product, products};

/// A weight matrix `[rows, cols]`, stored in panels of neighbouring rows. Quantised weights keep their values
/// and nearly their size.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    panels: Panels,
}

#[derive(Clone, PartialEq)]
enum Panels {
    Dense(Vec<f32>),
    Quantised(BlockFormat, Vec<u8>),
}

impl Matrix {
    /// Of f32 values, row by row.
    ///
    /// # Panics
    /// If there are not `rows * cols` values, or none.
    pub fn dense(values: &[f32], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0 && values.len() == rows * cols);
        let panels = Panels::Dense(dense::pack(values, rows, cols));
        Self { rows, cols, panels }
    }

    /// Of the blocks of a GGUF tensor, row by row.
    ///
    /// # Panics
    /// If a row is not whole blocks, or there are not `rows` of them.
    pub fn quantised(format: BlockFormat, bytes: &[u8], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0 && cols.is_multiple_of(format.weights()));
        assert_eq!(bytes.len(), rows * cols / format.weights() * format.bytes());
        let panels = Panels::Quantised(format, panels::pack(format, bytes, rows, cols));
        Self { rows, cols, panels }
    }

    /// Of f32 values, row by row, rounded to [`BlockFormat::Q8_0`].
    ///
    /// # Panics
    /// If there are not `rows * cols` values, or a row is not whole blocks.
    pub fn q8_0(values: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        Self::quantised(BlockFormat::Q8_0, &ggml::q8_0_blocks(values), rows, cols)
    }

    /// Number of rows: outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its blocks lay in the file; `None` for f32.
    pub fn format(&self) -> Option<BlockFormat> {
        match &self.panels {
            Panels::Dense(_) => None,
            Panels::Quantised(format, _) => Some(*format),
        }
    }

    /// What it is held as, to be hashed or counted.
    pub fn bytes(&self) -> &[u8] {
        match &self.panels {
            Panels::Dense(values) => bytemuck::cast_slice(values),
            Panels::Quantised(_, bytes) => bytes,
        }
    }

    /// Row `row`, widened into `out` `[cols]`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        match &self.panels {
            Panels::Dense(values) => dense::read(values, row, self.cols, out),
            Panels::Quantised(format, bytes) => panels::read(*format, bytes, row, self.cols, out),
        }
    }

    /// All values, row by row.
    pub fn widen(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        for (row, out) in values.chunks_exact_mut(self.cols).enumerate() {
            self.read_row(row, out);
        }
        values
    }

    fn panel_rows(&self) -> usize {
        match &self.panels {
            Panels::Dense(_) => dense::PANEL_ROWS,
            Panels::Quantised(..) => layout::PANEL_ROWS,
        }
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(self.panel_rows())
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Matrix [{}, {}] {:?}",
            self.rows,
            self.cols,
            self.format()
        )
    }
}

#[cfg(test)]
mod tests;
