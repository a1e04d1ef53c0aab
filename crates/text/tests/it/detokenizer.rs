//! The detokenizer on any text.

use std::sync::LazyLock;

use lava_text::{Detokenizer, Tokenizer};
use proptest::prelude::*;

use crate::models;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| models::smollm2().tokenizer().unwrap());

proptest! {
    #[test]
    fn any_text_comes_back_piece_by_piece(text in any::<String>()) {
        let ids = TOKENIZER.encode(&text, false).unwrap();
        let mut detokenizer = Detokenizer::new();
        let mut joined = String::new();
        for id in ids {
            joined += &detokenizer.push(&TOKENIZER, id);
            prop_assert!(text.starts_with(&joined), "{joined:?} does not begin {text:?}");
        }
        prop_assert_eq!(joined + &detokenizer.finish(), text);
    }

    #[test]
    fn any_ids_give_text(ids in prop::collection::vec(0u32..50_000, 0..30)) {
        let mut detokenizer = Detokenizer::new();
        let pieces: String = ids.iter().map(|&id| detokenizer.push(&TOKENIZER, id)).collect();
        let joined = pieces + &detokenizer.finish();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| TOKENIZER.bytes(id)).collect();
        prop_assert_eq!(joined, String::from_utf8_lossy(&bytes));
    }
}
