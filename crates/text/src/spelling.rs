//! How a vocabulary spells bytes.

/// The two spellings in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// GPT-2's: every byte is one printable character.
    ByteLevel,
    /// SentencePiece's: spaces are U+2581 and odd bytes are `<0xNN>`.
    SentencePiece,
}

impl Spelling {
    /// The bytes of an ordinary token.
    pub(crate) fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => token
                .chars()
                .flat_map(|c| match byte_of(c) {
                    Some(byte) => vec![byte],
                    None => c.to_string().into_bytes(),
                })
                .collect(),
            Self::SentencePiece => match fallback_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}

/// `<0x0A>` is the byte 10.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The byte that a character of the byte-level alphabet stands for: printable Latin-1 characters
/// stand for themselves, the other 68 bytes follow from U+0100 in order.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let rank = (code - 0x100) as usize;
            (0..=u8::MAX).filter(|&byte| !is_printable(byte)).nth(rank)
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_tokens_spell_bytes() {
        assert_eq!(Spelling::ByteLevel.bytes("Ġthe"), b" the");
        assert_eq!(Spelling::ByteLevel.bytes("Ċ"), b"\n");
        assert_eq!(Spelling::ByteLevel.bytes("Ã©"), "é".as_bytes());
        assert_eq!(Spelling::ByteLevel.bytes("Ń"), [0xAD]);
    }

    #[test]
    fn sentencepiece_tokens_spell_spaces_and_bytes() {
        assert_eq!(Spelling::SentencePiece.bytes("\u{2581}the"), b" the");
        assert_eq!(Spelling::SentencePiece.bytes("<0xE2>"), [0xE2]);
        assert_eq!(Spelling::SentencePiece.bytes("<0xZZ>"), b"<0xZZ>");
    }
}
