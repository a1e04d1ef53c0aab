//! Ids back to text, as they come.

use crate::tokenizer::Tokenizer;

/// Turns one answer's ids into text piece by piece. A character whose bytes are spread over several
/// tokens is held back until it is whole.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// Bytes of an unfinished character: at most 3.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Nothing pushed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes; often empty, never half a character. Bytes that cannot become
    /// UTF-8 turn into U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.pending.extend(tokenizer.bytes(id));
        let whole = self.pending.len() - unfinished(&self.pending);
        let bytes: Vec<u8> = self.pending.drain(..whole).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is left at the end: U+FFFD for a character that never became whole.
    pub fn finish(&mut self) -> String {
        let bytes = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Length of a character at the end of `bytes` that more bytes could complete.
fn unfinished(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                None => return rest.len() - error.valid_up_to(),
                Some(bad) => rest = &rest[error.valid_up_to() + bad..],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unfinished;

    #[test]
    fn only_a_character_that_can_still_be_completed_is_held_back() {
        let euro = "€".as_bytes();
        assert_eq!(unfinished(b"abc"), 0);
        assert_eq!(unfinished(&euro[..1]), 1);
        assert_eq!(unfinished(&euro[..2]), 2);
        assert_eq!(unfinished(euro), 0);
        assert_eq!(unfinished(&[b'a', 0xFF]), 0);
        assert_eq!(unfinished(&[0xFF, euro[0]]), 1);
        assert_eq!(unfinished(&[euro[0], b'a']), 0);
    }
}
