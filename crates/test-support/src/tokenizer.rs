//! A byte-level BPE vocabulary that fits a toy model, in the words of both formats.
//!
//! Ids: three special tokens, the 256 bytes, then as many merges as the vocabulary has room for. What is left over
//! is padding, as in real Qwen files: named in GGUF, absent from tokenizer.json.

use serde_json::{Map, Value, json};

/// The smallest vocabulary with a tokenizer: the special tokens and the bytes.
pub const VOCAB_MIN: usize = SPECIALS.len() + 256;

pub(crate) const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
pub(crate) const BOS_ID: u32 = 1;
pub(crate) const EOS_ID: u32 = 2;
pub(crate) const PAD_ID: u32 = 0;

/// ChatML.
pub(crate) const CHAT_TEMPLATE: &str = "\
{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Pairs of pieces, by priority; a piece that is longer than a byte was made by a pair before it. The last ones
/// make half a character, so that a token can end inside one.
const MERGES: [(&[u8], &[u8]); 16] = [
    (b" ", b"t"),
    (b"h", b"e"),
    (b" ", b"a"),
    (b"i", b"n"),
    (b"r", b"e"),
    (b"o", b"n"),
    (b" t", b"he"),
    (b"e", b"r"),
    (b"n", b"d"),
    (b" a", b"nd"),
    (b" ", b" "),
    (b"in", b"g"),
    (b"o", b"u"),
    (b"\xc3", b"\xa9"),
    (b"\xe4", b"\xbd"),
    (b"\xf0", b"\x9f"),
];

/// How a GGUF file types a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal = 1,
    Control = 3,
    Unused = 5,
}

/// The vocabulary of a model with `vocab` embedding rows.
pub(crate) struct ToyTokenizer {
    vocab: usize,
}

impl ToyTokenizer {
    /// None where the vocabulary has no room for one.
    pub(crate) fn of_vocab(vocab: usize) -> Option<Self> {
        (vocab >= VOCAB_MIN).then_some(Self { vocab })
    }

    /// Piece and type of every id from 0 to `vocab`, padding included.
    pub(crate) fn tokens(&self) -> Vec<(String, TokenType)> {
        let specials = SPECIALS.iter().map(|&s| (s.to_owned(), TokenType::Control));
        let bytes = (0..=255).map(|byte| (piece(&[byte]), TokenType::Normal));
        let merged = self
            .merges()
            .map(|(a, b)| (piece(&[a, b].concat()), TokenType::Normal));
        let mut tokens: Vec<_> = specials.chain(bytes).chain(merged).collect();
        tokens
            .extend((tokens.len()..self.vocab).map(|id| (format!("[PAD{id}]"), TokenType::Unused)));
        tokens
    }

    /// "left right" in the printable alphabet of [`piece`].
    pub(crate) fn merge_lines(&self) -> Vec<String> {
        self.merges()
            .map(|(a, b)| format!("{} {}", piece(a), piece(b)))
            .collect()
    }

    /// The content of tokenizer.json, with the pre-tokenizer of SmolLM2: digits apart, then words.
    pub(crate) fn hf_tokenizer(&self) -> Value {
        let vocab: Map<String, Value> = self
            .tokens()
            .into_iter()
            .enumerate()
            .filter(|(_, (_, kind))| *kind != TokenType::Unused)
            .map(|(id, (piece, _))| (piece, json!(id)))
            .collect();
        let added: Vec<Value> = SPECIALS
            .iter()
            .enumerate()
            .map(|(id, s)| added_token(id, s))
            .collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": true},
                    byte_level(),
                ],
            },
            "post_processor": null,
            "decoder": byte_level(),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "vocab": vocab,
                "merges": self.merge_lines(),
            },
        })
    }

    /// The content of tokenizer_config.json.
    pub(crate) fn hf_config(&self, context: usize) -> Value {
        json!({
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": false,
            "bos_token": SPECIALS[BOS_ID as usize],
            "eos_token": SPECIALS[EOS_ID as usize],
            "pad_token": SPECIALS[PAD_ID as usize],
            "model_max_length": context,
            "chat_template": CHAT_TEMPLATE,
        })
    }

    fn merges(&self) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
        MERGES.into_iter().take(self.vocab - VOCAB_MIN)
    }
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
}

fn added_token(id: usize, content: &str) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

/// Bytes in GPT-2's printable alphabet: a byte that prints in Latin-1 is itself, the others follow from U+0100.
fn piece(bytes: &[u8]) -> String {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let symbol = |byte: u8| {
        if prints(byte) {
            return char::from(byte);
        }
        let before = (0..byte).filter(|&b| !prints(b)).count() as u32;
        char::from_u32(0x100 + before).expect("U+0100 to U+0143 are all characters")
    };
    bytes.iter().map(|&byte| symbol(byte)).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    fn loaded(vocab: usize) -> Tokenizer {
        let content = ToyTokenizer::of_vocab(vocab)
            .unwrap()
            .hf_tokenizer()
            .to_string();
        content.parse().unwrap()
    }

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_has_no_tokenizer() {
        assert!(ToyTokenizer::of_vocab(VOCAB_MIN - 1).is_none());
        assert!(ToyTokenizer::of_vocab(VOCAB_MIN).is_some());
    }

    #[test]
    fn every_id_has_a_token_of_its_own() {
        for vocab in [VOCAB_MIN, VOCAB_MIN + 3, 320] {
            let tokens = ToyTokenizer::of_vocab(vocab).unwrap().tokens();
            let pieces: std::collections::HashSet<_> =
                tokens.iter().map(|(piece, _)| piece).collect();
            assert_eq!((tokens.len(), pieces.len()), (vocab, vocab));
        }
    }

    #[test]
    fn the_tokenizer_loads_and_gives_text_back() {
        let text = "The 12 hens and thé 你好 🦀\n\t<|im_start|>x\u{0}\u{ad}";
        for vocab in [VOCAB_MIN, VOCAB_MIN + 7, 320] {
            let tokenizer = loaded(vocab);
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
            assert!(ids.get_ids().iter().all(|&id| (id as usize) < vocab));
        }
    }

    #[test]
    fn merges_and_special_tokens_are_one_id_each() {
        let ids = loaded(320).encode("<|im_start|> the", false).unwrap();
        let the = (VOCAB_MIN + 6) as u32;
        assert_eq!(ids.get_ids(), [BOS_ID, the]);
    }
}
