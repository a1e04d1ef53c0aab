//! Which models may share a cache.

use lava_kernels::Matrix;
use lava_kv::WIRE_VERSION;
use xxhash_rust::xxh3::Xxh3;

use crate::config::ModelConfig;

/// Bytes at each end of a stored matrix that are hashed.
const SAMPLE_BYTES: usize = 4096;

/// XXH3 (128 bits) of what two workers must have in common so that one can decode the other's cache: the
/// configuration, both ends of every weight matrix as the CPU holds it (so RoPE's row order and quantisation are in it;
/// the file's format is not, nor is where the model runs) and the wire version.
pub(crate) struct Fingerprint(Xxh3);

impl Fingerprint {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(format!("{WIRE_VERSION} {config:?}").as_bytes());
        Self(hasher)
    }

    /// Counts one more matrix.
    pub(crate) fn add(&mut self, matrix: &Matrix) {
        self.0.update(format!("{matrix:?}").as_bytes());
        let (first, last) = ends(matrix.bytes());
        self.0.update(first);
        self.0.update(last);
    }

    pub(crate) fn finish(&self) -> [u8; 16] {
        self.0.digest128().to_le_bytes()
    }
}

fn ends(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = bytes.len().min(SAMPLE_BYTES);
    (&bytes[..len], &bytes[bytes.len() - len..])
}
