//! Which models may share a cache.

use lava_kv::WIRE_VERSION;
use xxhash_rust::xxh3::Xxh3;

use crate::error::LoadError;
use crate::linear::{Linear, Matrix};
use crate::model::Model;

/// Bytes at each end of a stored matrix that are hashed.
const SAMPLE_BYTES: usize = 4096;

impl Model {
    /// XXH3 (128 bits) of what two workers must have in common so that one can decode the other's cache:
    /// the configuration, both ends of every weight matrix as the engine holds it (so RoPE's row order
    /// and quantisation are in it, the file's format is not) and the wire version.
    ///
    /// # Errors
    /// The tensor library refused to hand out a weight.
    pub fn fingerprint(&self) -> Result<[u8; 16], LoadError> {
        let mut hasher = Xxh3::new();
        hasher.update(format!("{WIRE_VERSION} {:?}", self.config()).as_bytes());
        self.embedding().sample(&mut hasher)?;
        for layer in self.layers() {
            for linear in layer.linears() {
                linear.sample(&mut hasher)?;
            }
        }
        if let Some(output) = self.output() {
            output.sample(&mut hasher)?;
        }
        Ok(hasher.digest128().to_le_bytes())
    }
}

impl Linear {
    fn sample(&self, hasher: &mut Xxh3) -> candle_core::Result<()> {
        self.matrix().sample(hasher)
    }
}

impl Matrix {
    fn sample(&self, hasher: &mut Xxh3) -> candle_core::Result<()> {
        match self {
            Matrix::Dense(weight) => {
                let (rows, cols) = weight.dims2()?;
                hasher.update(format!("dense {rows} {cols}").as_bytes());
                for row in [0, rows - 1] {
                    let row = weight.narrow(0, row, 1)?.flatten_all()?.to_vec1::<f32>()?;
                    hasher.update(ends(bytemuck::cast_slice(&row)).0);
                }
            }
            Matrix::Quantized(weight) => {
                hasher.update(format!("{:?} {:?}", weight.dtype(), weight.shape()).as_bytes());
                let data = weight.data()?;
                let (first, last) = ends(&data);
                hasher.update(first);
                hasher.update(last);
            }
        }
        Ok(())
    }
}

fn ends(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = bytes.len().min(SAMPLE_BYTES);
    (&bytes[..len], &bytes[bytes.len() - len..])
}
