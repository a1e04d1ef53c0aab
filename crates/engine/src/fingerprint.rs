//! Which models may share a cache.

use lava_kernels::Matrix;
use lava_kv::WIRE_VERSION;
use xxhash_rust::xxh3::Xxh3;

use crate::linear::Linear;
use crate::model::Model;

/// Bytes at each end of a stored matrix that are hashed.
const SAMPLE_BYTES: usize = 4096;

impl Model {
    /// XXH3 (128 bits) of what two workers must have in common so that one can decode the other's cache:
    /// the configuration, both ends of every weight matrix as the engine holds it (so RoPE's row order
    /// and quantisation are in it, the file's format is not) and the wire version.
    ///
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hasher = Xxh3::new();
        hasher.update(format!("{WIRE_VERSION} {:?}", self.config()).as_bytes());
        let layers = self.layers().iter().flat_map(|layer| layer.linears());
        let matrices = [self.embedding()].into_iter().chain(self.output());
        for matrix in matrices.chain(layers.map(Linear::matrix)) {
            sample(matrix, &mut hasher);
        }
        hasher.digest128().to_le_bytes()
    }
}

fn sample(matrix: &Matrix, hasher: &mut Xxh3) {
    hasher.update(format!("{matrix:?}").as_bytes());
    let (first, last) = ends(matrix.bytes());
    hasher.update(first);
    hasher.update(last);
}

fn ends(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = bytes.len().min(SAMPLE_BYTES);
    (&bytes[..len], &bytes[bytes.len() - len..])
}
