//! Digests that both ends of a call compute.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// XXH3 (128 bits) of the ids, each as four little-endian bytes. It tells prompts apart; it is no
/// defence against someone who forges caches.
pub fn prompt_digest(ids: &[u32]) -> [u8; 16] {
    prompt_digest_of(&[ids])
}

/// The same for a prompt in parts.
pub fn prompt_digest_of(parts: &[&[u32]]) -> [u8; 16] {
    let mut hasher = Xxh3::new();
    // One id at a time is twenty times slower, and prompts are long.
    let mut bytes = [0; 4 * CHUNK];
    for chunk in parts.iter().flat_map(|part| part.chunks(CHUNK)) {
        for (to, id) in bytes.chunks_exact_mut(4).zip(chunk) {
            to.copy_from_slice(&id.to_le_bytes());
        }
        hasher.update(&bytes[..4 * chunk.len()]);
    }
    hasher.digest128().to_le_bytes()
}

/// Ids that are hashed together.
const CHUNK: usize = 512;

/// XXH3 (128 bits) of bytes, as `worker.Model.text_digest` has it for text files.
pub fn content_digest(bytes: &[u8]) -> [u8; 16] {
    xxh3_128(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::{prompt_digest, prompt_digest_of};

    #[test]
    fn the_digest_is_that_of_the_bytes_however_the_ids_are_cut() {
        let ids: Vec<u32> = (0..2000)
            .map(|i: u32| i.wrapping_mul(0x0101_0307))
            .collect();
        for len in [0, 1, 511, 512, 513, 1024, 2000] {
            let bytes: Vec<u8> = ids[..len].iter().flat_map(|id| id.to_le_bytes()).collect();
            let expected = xxh3_128(&bytes).to_le_bytes();
            assert_eq!(prompt_digest(&ids[..len]), expected, "{len}");
            for cut in [0, len / 3, len] {
                let (front, back) = ids[..len].split_at(cut);
                assert_eq!(prompt_digest_of(&[front, back]), expected, "{len} {cut}");
            }
        }
    }

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
