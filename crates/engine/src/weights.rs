//! The weights of a model by name, wherever they are stored.
//!
//! Names are those of Hugging Face checkpoints; [`gguf`] translates them. Every tensor is checked
//! against the shape that the configuration asks for before it is used.

pub(crate) mod gguf;
mod safetensors;

use lava_kernels::{BlockFormat, Matrix};

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::linear::Linear;
use crate::source::ModelFiles;

/// How weights are held and multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// As stored: quantised blocks stay quantised, 16-bit weights are widened to f32.
    #[default]
    Stored,
    /// Everything as f32.
    F32,
    /// Every matrix in 8 bits with a scale for each 32 weights: a quarter of f32's memory.
    /// Matrices whose rows are not whole blocks of 32 stay f32.
    Q8_0,
    /// Every weight rounded to f16 and then held as f32: what golden files are made with.
    F16Rounded,
}

/// An open model.
pub(crate) enum Weights {
    Safetensors(safetensors::Shards),
    Gguf(lava_gguf::Gguf),
}

impl Weights {
    /// Opens the files and reads the configuration.
    pub(crate) fn open(files: &ModelFiles) -> Result<(Weights, ModelConfig), LoadError> {
        match files {
            ModelFiles::Folder(folder) => {
                let config = crate::config::hf::read(&folder.join("config.json"))?;
                let shards = safetensors::Shards::open(folder)?;
                Ok((Weights::Safetensors(shards), config))
            }
            ModelFiles::Gguf(file) => {
                let gguf = lava_gguf::Gguf::open(file)?;
                let config = crate::config::gguf::read(&gguf)?;
                Ok((Weights::Gguf(gguf), config))
            }
        }
    }

    /// A vector of `len` values, f32.
    pub(crate) fn vector(
        &self,
        name: &str,
        len: usize,
        format: WeightFormat,
    ) -> Result<Vec<f32>, LoadError> {
        let values = match self {
            Weights::Safetensors(shards) => shards.values(name, &[len])?,
            Weights::Gguf(gguf) => gguf::vector(gguf, name, len)?,
        };
        Ok(round(values, format))
    }

    /// A matrix `[rows, cols]`.
    pub(crate) fn matrix(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        format: WeightFormat,
    ) -> Result<Matrix, LoadError> {
        let matrix = match self {
            Weights::Safetensors(shards) => {
                let values = shards.values(name, &[rows, cols])?;
                return Ok(hold(&values, (rows, cols), format));
            }
            Weights::Gguf(gguf) => gguf::matrix(gguf, name, rows, cols, RowOrder::AsStored)?,
        };
        Ok(apply(matrix, format))
    }

    /// A projection to `heads` heads whose rows RoPE will rotate: returned in the halves layout
    /// whatever the file's layout is.
    pub(crate) fn rotary_matrix(
        &self,
        name: &str,
        (heads, head_dim): (usize, usize),
        cols: usize,
        format: WeightFormat,
    ) -> Result<Matrix, LoadError> {
        match self {
            Weights::Gguf(gguf) if gguf::interleaves_rotary_rows(gguf)? => {
                let order = RowOrder::Interleaved { head_dim };
                let matrix = gguf::matrix(gguf, name, heads * head_dim, cols, order)?;
                Ok(apply(matrix, format))
            }
            _ => self.matrix(name, (heads * head_dim, cols), format),
        }
    }

    /// A projection with its bias if `biased`.
    pub(crate) fn linear(
        &self,
        prefix: &str,
        (rows, cols): (usize, usize),
        biased: bool,
        format: WeightFormat,
    ) -> Result<Linear, LoadError> {
        let matrix = self.matrix(&format!("{prefix}.weight"), (rows, cols), format)?;
        Ok(Linear::new(
            matrix,
            self.bias(prefix, rows, biased, format)?,
        ))
    }

    /// As [`Weights::linear`], for [`Weights::rotary_matrix`].
    pub(crate) fn rotary_linear(
        &self,
        prefix: &str,
        heads: (usize, usize),
        cols: usize,
        biased: bool,
        format: WeightFormat,
    ) -> Result<Linear, LoadError> {
        let matrix = self.rotary_matrix(&format!("{prefix}.weight"), heads, cols, format)?;
        let bias = self.bias(prefix, heads.0 * heads.1, biased, format)?;
        Ok(Linear::new(matrix, bias))
    }

    fn bias(
        &self,
        prefix: &str,
        len: usize,
        biased: bool,
        format: WeightFormat,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        if !biased {
            return Ok(None);
        }
        self.vector(&format!("{prefix}.bias"), len, format)
            .map(Some)
    }
}

/// How the rows of a stored projection follow each other within a head.
#[derive(Clone, Copy)]
pub(crate) enum RowOrder {
    /// As the engine wants them.
    AsStored,
    /// Rotary partners next to each other: row `2 i + p` of a head is row `p D/2 + i` in halves.
    Interleaved { head_dim: usize },
}

impl RowOrder {
    /// Index of the stored row that becomes row `row`.
    pub(crate) fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::AsStored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, r) = (row / head_dim, row % head_dim);
                let (part, i) = (r / (head_dim / 2), r % (head_dim / 2));
                head * head_dim + 2 * i + part
            }
        }
    }
}

fn apply(matrix: Matrix, format: WeightFormat) -> Matrix {
    match format {
        WeightFormat::Stored => matrix,
        _ => hold(&matrix.widen(), (matrix.rows(), matrix.cols()), format),
    }
}

fn hold(values: &[f32], (rows, cols): (usize, usize), format: WeightFormat) -> Matrix {
    match format {
        WeightFormat::Stored | WeightFormat::F32 => Matrix::dense(values, rows, cols),
        WeightFormat::F16Rounded => Matrix::dense(&round(values.to_vec(), format), rows, cols),
        WeightFormat::Q8_0 if cols.is_multiple_of(BlockFormat::Q8_0.weights()) => {
            Matrix::q8_0(values, rows, cols)
        }
        WeightFormat::Q8_0 => Matrix::dense(values, rows, cols),
    }
}

fn round(mut values: Vec<f32>, format: WeightFormat) -> Vec<f32> {
    if format == WeightFormat::F16Rounded {
        for x in &mut values {
            *x = half::f16::from_f32(*x).to_f32();
        }
    }
    values
}

/// Little-endian elements.
fn elements<const SIZE: usize, T>(data: &[u8], read: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (chunks, _) = data.as_chunks::<SIZE>();
    chunks.iter().map(|chunk| read(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn interleaved_rows_become_halves_within_each_head() {
        let order = RowOrder::Interleaved { head_dim: 4 };
        let rows: Vec<usize> = (0..8).map(|row| order.stored_row(row)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
