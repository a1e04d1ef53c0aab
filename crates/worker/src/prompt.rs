//! The prompt of a call.

use lava_proto::{content_digest, ids_of_bytes};

use crate::refusal::Refusal;

/// The ids of a prompt that has come as bytes, `[tokens]`.
///
/// # Errors
/// They are not those whose digest the attempt has, or not as many.
pub fn prompt_ids(bytes: &[u8], digest: [u8; 16], tokens: usize) -> Result<Vec<u32>, Refusal> {
    let ids = ids_of_bytes(bytes);
    // The digest of ids is that of their bytes.
    let is_whole = bytes.len() == 4 * tokens && content_digest(bytes) == digest;
    ids.filter(|_| is_whole).ok_or_else(|| Refusal::Field {
        field: "prompt",
        found: format!("{} bytes with another digest or length", bytes.len()),
        expected: format!("the {tokens} ids of the attempt's digest, 4 bytes each"),
    })
}

#[cfg(test)]
mod tests {
    use lava_proto::{ids_to_bytes, prompt_digest};

    use super::*;

    #[test]
    fn a_prompt_is_the_one_that_the_attempt_describes_or_refused() {
        let ids = [5, 6, 70_000];
        let (bytes, digest) = (ids_to_bytes(&[&ids]), prompt_digest(&ids));
        assert_eq!(prompt_ids(&bytes, digest, 3).unwrap(), ids);
        for (bytes, digest, tokens) in [
            (&bytes[..], digest, 2),
            (&bytes[..11], digest, 3),
            (&bytes[..8], prompt_digest(&ids[..2]), 3),
            (&bytes[..], [0; 16], 3),
        ] {
            let refused = prompt_ids(bytes, digest, tokens).unwrap_err().to_string();
            assert!(refused.contains("prompt"), "{refused}");
        }
    }
}
