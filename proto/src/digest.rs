//! Digests that both ends of a call compute.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// XXH3 (128 bits) of the ids, each as four little-endian bytes. It tells prompts apart; it is no
/// defence against someone who forges caches.
pub fn prompt_digest(ids: &[u32]) -> [u8; 16] {
    let mut hasher = Xxh3::new();
    for id in ids {
        hasher.update(&id.to_le_bytes());
    }
    hasher.digest128().to_le_bytes()
}

/// XXH3 (128 bits) of bytes, as `worker.Model.text_digest` has it for text files.
pub fn content_digest(bytes: &[u8]) -> [u8; 16] {
    xxh3_128(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::prompt_digest;

    #[test]
    fn the_digest_depends_on_every_id_and_their_order() {
        let digests = [&[][..], &[0], &[1], &[0, 1], &[1, 0], &[256]].map(prompt_digest);
        for (i, a) in digests.iter().enumerate() {
            assert!(
                digests[i + 1..].iter().all(|b| a != b),
                "digest {i} repeats"
            );
        }
        assert_eq!(prompt_digest(&[1, 2]), prompt_digest(&[1, 2]));
    }
}
